"""How fast the waiting line moves: what the owners together eat, and what head starts spare them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.view import ClusterView, WorkerView


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that all owners together spend on one token, in steps that are full; `relief` is the low-ends' prefill against theirs.

    Two numbers per worker, added up once per change of roles: a decision costs nothing that grows with the number of workers.
    """

    prefill_s: float
    decode_s: float
    decode_context_s: float
    """For one token of context."""
    relief: float

    @classmethod
    def of(cls, view: ClusterView) -> Pace:
        owners = [view.workers[ref] for ref in view.roles.owners if ref in view.workers]
        helpers = [view.workers[ref] for ref in view.roles.assistants if ref in view.workers]
        prefill = _together(map(_prefill_s, owners))
        return cls(
            prefill,
            _together(owner.profile.decode_s + _share_s(owner) for owner in owners),
            _together(owner.profile.decode_context_s for owner in owners),
            prefill / _together(map(_prefill_s, helpers)) if helpers else 0.0,
        )

    def seconds(self, tokens: float, output: float) -> float:
        """Between one take and the next, when requests have so many tokens each and the line is never empty.

        All owners' work on one, `tokens * prefill_s + output * (decode_s + context * decode_context_s)`, shortened by the
        prefill that low-ends do meanwhile.
        """
        context = tokens + output / 2
        return (tokens * self.prefill_s + output * (self.decode_s + context * self.decode_context_s)) / (1.0 + self.relief)


def _share_s(worker: WorkerView) -> float:
    """Of a full step's fixed seconds, what falls on one token."""
    return worker.profile.step_s / max(1, worker.token_budget)


def _prefill_s(worker: WorkerView) -> float:
    return worker.profile.prefill_token_s + _share_s(worker)


def _together(seconds: Iterable[float]) -> float:
    """Rates add up; nobody at all takes for ever."""
    rate = sum(1.0 / max(each, 1e-12) for each in seconds)
    return 1.0 / rate if rate else float("inf")
