"""Sending to one incarnation of a requester, at one address of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from shared.types import TransferId
from workers.staging import Region
from workers.transport import TransferHeader
from workers.ucx_binding import OK, Operation, describe
from workers.ucx_link import LAND_S, Link
from workers.ucx_wire import HEADER_PART, pack_frame, segment, segments, tag


@dataclass(eq=False, slots=True)
class Sending:
    """A transfer on its way out. `region` is the payload's place in the arena, if it has one."""

    header: TransferHeader
    payload: memoryview
    region: Region | None
    deadline: float
    operations: list[Operation] = field(default_factory=list)

    @property
    def transfer(self) -> TransferId:
        return self.header.transfer


@dataclass(frozen=True, slots=True)
class Sent:
    """A transfer that UCX has let go of (`error` is empty), or that was given up."""

    sending: Sending
    error: str


class Outbound:
    """Raises `TransportError` if the address cannot be reached."""

    def __init__(self, link: Link, address: bytes) -> None:
        self.link = link
        self.sendings: list[Sending] = []
        self._endpoint = link.worker.connect(address)

    @property
    def transports(self) -> str:
        return self._endpoint.transports()

    def send(self, sending: Sending) -> None:
        """Starts header and payload; a header that says why there is nothing goes alone. Raises `TransportError`."""
        payload = memoryview(b"") if sending.header.error else sending.payload
        count = segments(len(payload))
        frame = memoryview(pack_frame(sending.header, len(payload)))
        sending.operations.append(self.link.watch(self._endpoint.send(tag(sending.transfer, HEADER_PART), frame)))
        for part in range(1, count + 1):
            operation = self._endpoint.send(tag(sending.transfer, part), payload[segment(part, len(payload))])
            sending.operations.append(self.link.watch(operation, sending.region))
        self.sendings.append(sending)

    @property
    def busy(self) -> bool:
        return bool(self.sendings)

    def visit(self, now: float) -> list[Sent]:
        """Moves bytes and answers which sends are over: the oldest as soon as it is, the others within `LAND_S`."""
        self.link.burst()
        over = []
        while self.sendings and _done(self.sendings[0]):
            over.append(self._end(self.sendings[0]))
        if now - self.link.last_landed > LAND_S:
            over += [self._end(sending) for sending in list(self.sendings) if sending.deadline <= now or _done(sending)]
            self.link.land()
        return over

    def _end(self, sending: Sending) -> Sent:
        self.sendings.remove(sending)
        self.link.let_go(sending.operations)
        if _done(sending):
            return Sent(sending, _outcome(sending))
        self.link.late(time.monotonic())
        return Sent(sending, "deadline")


def _done(sending: Sending) -> bool:
    return all(operation.done() for operation in reversed(sending.operations))  # the last is done last: one look is enough


def _outcome(sending: Sending) -> str:
    return next((describe(operation.status) for operation in sending.operations if operation.status != OK), "")
