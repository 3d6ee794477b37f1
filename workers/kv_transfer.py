"""The life of a KV transfer, told from both ends: `OFFERED -> IN_FLIGHT -> VERIFIED -> RELEASED | EXPIRED`.

The giver has an `Offer` (one per head start, any number of sends), the owner an `Intake` (one per pull). Giving up is not an
end: what has an operation outstanding stays `IN_FLIGHT` until the operation has ended, and its blocks with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from shared.errors import InvalidTransition
from shared.messages import Source
from shared.types import AssistId, BlockId, RequestId, TokenSpan, TransferId, WorkerRef


class TransferState(StrEnum):
    OFFERED = "offered"
    IN_FLIGHT = "in_flight"
    VERIFIED = "verified"
    RELEASED = "released"
    EXPIRED = "expired"


TRANSITIONS: dict[TransferState, frozenset[TransferState]] = {
    TransferState.OFFERED: frozenset({TransferState.IN_FLIGHT, TransferState.RELEASED, TransferState.EXPIRED}),
    TransferState.IN_FLIGHT: frozenset({TransferState.OFFERED, TransferState.VERIFIED, TransferState.EXPIRED}),
    TransferState.VERIFIED: frozenset({TransferState.IN_FLIGHT, TransferState.RELEASED, TransferState.EXPIRED}),
    TransferState.RELEASED: frozenset(),
    TransferState.EXPIRED: frozenset(),
}
"""Back to `OFFERED`: a send that failed may be asked for again. From `VERIFIED` to `IN_FLIGHT`: a second pull of one offer."""


@dataclass(eq=False, slots=True, kw_only=True)
class Life:
    """A state that only moves along the table."""

    state: TransferState = TransferState.OFFERED
    story: list[str] = field(default_factory=list)

    def _move(self, wanted: TransferState, why: str) -> None:
        if wanted not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"{self.state} -> {wanted} ({why}) is not a step of a transfer's life; story: {self.story}")
        self.state = wanted
        self.story.append(f"{wanted}: {why}")


SendKey = tuple[WorkerRef, TransferId]
"""A transfer id is the requester's: it names nothing without it."""


@dataclass(eq=False, slots=True)
class Offer(Life):
    """The giver's side: what of a head start may be pulled."""

    assist: AssistId
    request_id: RequestId
    tokens: int = 0
    sends: set[SendKey] = field(default_factory=set)
    released: bool = False
    """Nobody needs it any more; it ends when its last send has."""

    def grow(self, tokens: int) -> bool:
        """Raises what is offered; whether it rose."""
        risen = tokens > self.tokens
        self.tokens = max(self.tokens, tokens)
        return risen

    def begin_send(self, key: SendKey) -> None:
        if not self.sends:
            self._move(TransferState.IN_FLIGHT, f"pulled by {key[0]}")
        self.sends.add(key)

    def end_send(self, key: SendKey, error: str) -> None:
        """The transport has let go. Only the receiver's release proves that the bytes were good."""
        self.sends.remove(key)
        if self.sends:
            return
        self._move(TransferState.OFFERED if error else TransferState.VERIFIED, error or "sent")
        if self.released:
            self._move(TransferState.RELEASED, "released while it was sent")

    def release(self) -> None:
        self.released = True
        if not self.sends:
            self._move(TransferState.RELEASED, "nobody needs it")

    def expire(self, why: str) -> None:
        """Dropped by its giver. Only what nobody is pulling can be."""
        self._move(TransferState.EXPIRED, why)


@dataclass(eq=False, slots=True)
class Intake(Life):
    """The owner's side: one pull of `span` into `blocks` (the sequence's table up to the span's end)."""

    transfer: TransferId
    request_id: RequestId
    attempt: int
    source: Source
    span: TokenSpan
    blocks: tuple[BlockId, ...]
    deadline: float
    """Monotonic seconds, the core's own: the transport should have failed by then."""
    abandoned: bool = False
    releases_source: bool = True
    """False where another attempt may want to pull the same head start."""
    started: float = 0.0
    sharing: int = 1
    """Pulls under way when it started, itself among them."""

    def start(self) -> None:
        self._move(TransferState.IN_FLIGHT, f"pulling from {self.source.worker}")

    def end(self, good_tokens: int, error: str) -> None:
        """The shell touches the blocks no more."""
        if good_tokens:
            self._move(TransferState.VERIFIED, f"{good_tokens} tokens good; {error}")
            self._move(TransferState.RELEASED, "the source may forget")
        else:
            self._move(TransferState.EXPIRED, error or "nothing good arrived")
