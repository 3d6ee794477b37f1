"""How fast the waiting line moves: what the owners together eat, and what head starts spare them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from scheduler.view import ClusterView, WorkerView
from shared.profile import StepShape

DECODE_ALONE = 2.0
"""A share is asked for while the line is short: many steps are not full then, and their fixed part falls to the decodes.

Of 1, 1.5, 2 and 3, tried on A100 + A10 and A100-40G + A30 under 80 % load, 2 had the best tails (docs/journal.md).
"""


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
    helper_speed: float
    """Prefill tokens a second of one low-end, on average; 0 if there is none."""

    @classmethod
    def of(cls, view: ClusterView) -> Pace:
        owners = [view.workers[ref] for ref in view.roles.owners if ref in view.workers]
        helpers = [view.workers[ref] for ref in view.roles.assistants if ref in view.workers]
        prefill = _together(map(_prefill_s, owners))
        return cls(
            prefill,
            _together(map(_decode_s, owners)),
            _together(owner.profile.decode_context_s for owner in owners),
            prefill / _together(map(_prefill_s, helpers)) if helpers else 0.0,
            fmean(helper.speed for helper in helpers) if helpers else 0.0,
        )

    def seconds(self, tokens: float, output: float) -> float:
        """Between one take and the next, when requests have so many tokens each and the line is never empty.

        All owners' work on one, `tokens * prefill_s + output * (decode_s + context * decode_context_s)`, shortened by the
        prefill that low-ends do meanwhile.
        """
        context = tokens + output / 2
        return (tokens * self.prefill_s + output * (self.decode_s + context * self.decode_context_s)) / (1.0 + self.relief)

    def share(self, tokens: float, output: float) -> float:
        """Of a prompt, the tokens that low-ends would compute so that, request after request, they work as long as the owners.

        From `share * helper_s = (tokens - share) * prefill_s + decode`: the owners' decode counts as `DECODE_ALONE` times what it takes
        in full steps.
        """
        decode_s = self.decode_s + (tokens + output / 2) * self.decode_context_s
        return (tokens + DECODE_ALONE * output * decode_s / self.prefill_s) * self.relief / (1.0 + self.relief)


def _prefill_s(worker: WorkerView) -> float:
    """A full step's seconds, spread over its tokens."""
    return _full(worker, 0) / max(1, worker.token_budget)


def _decode_s(worker: WorkerView) -> float:
    """The same for a decode, which takes a prefill token's place in a full step."""
    return max(0.0, _prefill_s(worker) + _full(worker, 1) - _full(worker, 0))


def _full(worker: WorkerView, decodes: int) -> float:
    return worker.profile.step_seconds(StepShape(max(0, worker.token_budget - decodes), 0, decodes, 0))


def _together(seconds: Iterable[float]) -> float:
    """Rates add up; nobody at all takes for ever."""
    rate = sum(1.0 / max(each, 1e-12) for each in seconds)
    return 1.0 / rate if rate else float("inf")
