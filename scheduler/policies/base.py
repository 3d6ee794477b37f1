"""What a policy decides. Pure: it looks at an immutable view and names what should be done; the placement does the books."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from scheduler.view import ClusterView, Roles, WaitingView, WorkerView
from shared.types import RequestId, WorkerRef


@dataclass(frozen=True, slots=True)
class Take:
    """This worker should own this request, pulling `[0, cut)` of its head start; 0: no pull.

    `cut` may lie beyond what is offered yet, up to the head start's limit: then the assist is still running up to it.
    """

    request_id: RequestId
    cut: int = 0
    worker: WorkerRef | None = None
    """Another free owner than the one that was asked, where this request costs less."""


@dataclass(frozen=True, slots=True)
class Assist:
    """This worker should give this waiting prompt a head start up to `limit` tokens (whole granules, at least one)."""

    request_id: RequestId
    limit: int
    worker: WorkerRef | None = None
    """An assistant with room, where an owner was asked."""


class Policy(Protocol):
    """`take` and `assist` are asked again after every answer, until they answer None: one decision at a time."""

    name: str
    waits_for_head_starts: bool
    """`take` may decline now and accept when a head start has advanced: then it is asked at every event."""

    def meet(self, view: ClusterView, waiting: WaitingView) -> None:
        """A request joins the line: for those who decide at arrival."""
        ...

    def classify(self, view: ClusterView) -> Roles:
        """Who owns and who assists; asked when a member comes, goes, or changes."""
        ...

    def take(self, view: ClusterView, worker: WorkerView) -> Take | Assist | None:
        """Asked of an owner that has token credit: the waiting request that it should take now. It must fit.

        Or one that it leaves to an assistant first, and is asked again.
        """
        ...

    def assist(self, view: ClusterView, worker: WorkerView) -> Assist | Take | None:
        """Asked of an assistant that has room for at least a granule: a head start, or a whole request for itself; None: nothing for it."""
        ...
