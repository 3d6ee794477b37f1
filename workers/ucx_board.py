"""All links of one process, and what becomes of their transfers. Belongs to the progress thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from shared.errors import TransportError
from shared.types import TransferId, WorkerRef
from workers.transport import Arrival, OnArrival, OnFailure, OnSent
from workers.ucx_binding import Context
from workers.ucx_inbound import Ended, Expected, Inbound
from workers.ucx_link import Link
from workers.ucx_outbound import Outbound, Sending, Sent
from workers.ucx_staging import PinnedArena

log = logging.getLogger("headstart.transport")

STUCK_S = 30.0
"""How long the late bytes of a transfer given up are waited for; then its link is destroyed, and its memory comes back."""
IDLE_S = 600.0
"""A link nobody used is destroyed; the next transfer makes a new one in some ten milliseconds."""
LINGER_S = 0.25
"""After the last transfer a link is still progressed: UCX may owe its peer an answer."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    arrival: OnArrival
    failure: OnFailure
    sent: OnSent


class Board:
    def __init__(self, context: Context, staging: PinnedArena, callbacks: Callbacks, stuck_s: float) -> None:
        self._context, self._staging, self._callbacks, self._stuck_s = context, staging, callbacks, stuck_s
        self._inbound: dict[WorkerRef, Inbound] = {}
        self._outbound: dict[tuple[WorkerRef, bytes], Outbound] = {}
        self._logged: set[str] = set()

    # -- what is asked of it

    def expect(self, sender: WorkerRef, expected: Expected) -> bytes:
        """The address at which this sender's incarnation reaches us. Raises `TransportError`."""
        if sender not in self._inbound:
            self._inbound[sender] = Inbound(Link(self._context, self._staging))
        inbound = self._inbound[sender]
        inbound.expect(expected)
        inbound.link.last_moved = time.monotonic()
        return inbound.address

    def abandon(self, transfer: TransferId) -> None:
        for inbound in list(self._inbound.values()):
            self._end(inbound.give_up(transfer, "abandoned", time.monotonic()))

    def send(self, requester: WorkerRef, address: bytes, sending: Sending) -> None:
        try:
            outbound = self._reach(requester, address)
            outbound.link.last_moved = time.monotonic()
            outbound.send(sending)
        except TransportError as error:
            self._call(self._callbacks.sent, sending.transfer, requester, str(error))

    def drop(self, peer: WorkerRef) -> None:
        inbound = self._inbound.pop(peer, None)
        if inbound is not None:
            self._close_inbound(inbound, f"{peer} is dead")
        for key in [key for key in self._outbound if key[0] == peer]:
            self._close_outbound(key, f"{peer} is dead")

    def close(self) -> None:
        for peer in [*self._inbound, *(requester for requester, _ in self._outbound)]:
            self.drop(peer)

    # -- what it does by itself

    def visit(self, now: float) -> None:
        """One round over the links that may have something to do. A callback may ask for more, even for a link's end."""
        for sender, inbound in list(self._inbound.items()):
            if self._inbound.get(sender) is inbound and _awake(inbound, now):
                self._end(inbound.visit(now))
        for key, outbound in list(self._outbound.items()):
            if self._outbound.get(key) is outbound and _awake(outbound, now):
                self._sent(key, outbound.visit(now))
        self._retire(now)

    def quiet_s(self, now: float) -> float:
        """Seconds since anything moved on any link."""
        return now - max((each.link.last_moved for each in self._links()), default=now)

    @property
    def busy(self) -> bool:
        """Transfers are announced."""
        return any(each.busy for each in self._links())

    @property
    def flying(self) -> int:
        """Operations under way, those of transfers given up included."""
        return sum(each.link.flying for each in self._links())

    @property
    def late(self) -> bool:
        """Bytes of transfers given up may still come or go."""
        return any(each.link.late_since is not None for each in self._links())

    @property
    def empty(self) -> bool:
        return not self._inbound and not self._outbound

    def _links(self) -> Iterator[Inbound | Outbound]:
        yield from self._inbound.values()
        yield from self._outbound.values()

    def _reach(self, requester: WorkerRef, address: bytes) -> Outbound:
        """The link to this address; the requester's earlier ones are dead, and go as soon as nothing is sent there."""
        key = (requester, address)
        for old in [old for old, each in self._outbound.items() if old[0] == requester and old != key and not each.busy]:
            self._close_outbound(old, "")
        if key not in self._outbound:
            self._outbound[key] = self._connect(key)
        return self._outbound[key]

    def _connect(self, key: tuple[WorkerRef, bytes]) -> Outbound:
        link = Link(self._context, self._staging)
        try:
            outbound = Outbound(link, key[1])
        except TransportError:
            link.destroy()
            raise
        if outbound.transports not in self._logged:
            self._logged.add(outbound.transports)
            log.info("UCX chose %s for sending to %s", outbound.transports, key[0])
        return outbound

    def _end(self, ended: list[Ended]) -> None:
        for each in ended:
            expected = each.expected
            if each.error or expected.header is None:
                self._staging.release(expected.region)
                self._call(self._callbacks.failure, expected.transfer, each.error)
                continue
            seconds = time.monotonic() - expected.started
            release = partial(self._staging.release, expected.region)
            self._call(self._callbacks.arrival, Arrival(expected.transfer, expected.header, expected.region.view, seconds, release))

    def _sent(self, key: tuple[WorkerRef, bytes], over: list[Sent]) -> None:
        if any(_exposed(sent) for sent in over):
            self._close_outbound(key, "ended to let go of another transfer's memory")
        for sent in over:
            self._call(self._callbacks.sent, sent.sending.transfer, key[0], sent.error)

    def _close_inbound(self, inbound: Inbound, reason: str) -> None:
        inbound.link.destroy()
        ended = [Ended(expected, reason) for expected in inbound.expected.values()]
        inbound.expected.clear()
        self._end(ended)

    def _close_outbound(self, key: tuple[WorkerRef, bytes], reason: str) -> None:
        outbound = self._outbound.pop(key)
        outbound.link.destroy()
        for sending in outbound.sendings:
            self._call(self._callbacks.sent, sending.transfer, key[0], reason)

    def _retire(self, now: float) -> None:
        for sender, inbound in list(self._inbound.items()):
            if self._useless(inbound, now):
                self._close_inbound(self._inbound.pop(sender), "")
        for key, outbound in list(self._outbound.items()):
            if self._useless(outbound, now):
                self._close_outbound(key, "")

    def _useless(self, each: Inbound | Outbound, now: float) -> bool:
        """What flies belongs to transfers given up long ago, or nobody used it for long."""
        if each.busy:
            return False
        if each.link.late_since is not None and now - each.link.late_since > self._stuck_s:
            each.link.late_since = None
            return each.link.flying > 0
        return now - each.link.last_moved > IDLE_S

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Callbacks must not raise; if one does, the others' transfers go on."""
        try:
            callback(*arguments)
        except Exception:
            log.exception("a transport callback raised")


def _awake(each: Inbound | Outbound, now: float) -> bool:
    return each.busy or each.link.late_since is not None or now - each.link.last_moved < LINGER_S


def _exposed(sent: Sent) -> bool:
    """Given up while UCX may still read memory that is not ours to quarantine."""
    return bool(sent.error) and sent.sending.region is None and not all(each.done() for each in sent.sending.operations)
