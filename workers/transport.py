"""The KV transport protocol, and what it must never do.

A receive goes into a staging region, never into blocks. The region stays quarantined until its operation has completed
or its UCX worker is gone: a receive that is merely abandoned would write into the reused memory later, unseen by any digest.
"No exception" is not "delivered": the receiver proves length, digests, attempt and layout from the header.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.types import TokenSpan, TransferId, WorkerRef


@dataclass(frozen=True, slots=True)
class TransferHeader:
    """What the sender says about the bytes: msgpack on the wire, ahead of the payload, in one frame."""

    transfer: TransferId
    request_id: str
    attempt: int
    span: TokenSpan
    fingerprint: bytes
    granule_bytes: int
    digests: tuple[int, ...]
    """xxh3_64 of each granule in order."""
    error: str = ""
    """Why the sender sends nothing; no payload follows."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A completed receive: `payload` is the staging region, valid until `release` is called (exactly once)."""

    transfer: TransferId
    header: TransferHeader
    payload: memoryview
    seconds: float
    release: Callable[[], None]


OnArrival = Callable[[Arrival], None]
OnFailure = Callable[[TransferId, str], None]
OnSent = Callable[[TransferId, WorkerRef, str], None]
"""(transfer, requester, error): `error` is empty when the transport has let go of the payload in good order."""


class KvTransport(Protocol):
    """Callbacks come from the transport's own thread; they must be quick and must not raise."""

    def start(self, on_arrival: OnArrival, on_failure: OnFailure, on_sent: OnSent) -> None: ...

    def receive(self, transfer: TransferId, sender: WorkerRef, nbytes: int, deadline_s: float) -> bytes:
        """Posts the receives for `nbytes` of payload in staging; returns the address to put into `Pull`.

        Ends in exactly one `on_arrival` or `on_failure`. Raises `TransportError` at once if the arena is full.
        """
        ...

    def abandon(self, transfer: TransferId) -> None:
        """Gives up on a receive: `on_failure` follows at once, the region stays quarantined as long as it must."""
        ...

    def send(self, header: TransferHeader, requester: WorkerRef, address: bytes, payload: memoryview, deadline_s: float) -> None:
        """Sends header and payload; `payload` must stay untouched until `on_sent`."""
        ...

    def stage(self, nbytes: int) -> memoryview:
        """A send buffer of the arena, to gather into. Raises `TransportError` if the arena is full."""
        ...

    def unstage(self, payload: memoryview) -> None:
        """Gives a send buffer back, after `on_sent`, or if it was never sent."""
        ...

    def drop_peer(self, peer: WorkerRef) -> None:
        """This incarnation is dead: destroys its UCX worker, which ends every operation with it and lifts quarantines."""
        ...

    def close(self) -> None: ...
