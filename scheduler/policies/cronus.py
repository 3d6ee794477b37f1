"""Cronus (arXiv 2509.17357), as far as it is published: the split is predicted once, when the low-end begins.

A prompt waits until the low-end has fewer than two; then its split is fixed so that both stages take equally long by linear
predictors, the low-end computes its part, and only then the high-end takes it. What the paper does not say is reconstructed in
`split`; answers' lengths are no input to it.
"""

from __future__ import annotations

from math import ceil

from scheduler.cost_model import assist_limit
from scheduler.policies.base import Assist
from scheduler.policies.fixed_cut import FixedCut
from scheduler.settings import SchedulerSettings
from scheduler.view import ClusterView, WaitingView, WorkerView
from shared.profile import Profile, StepShape
from shared.types import GRANULE_TOKENS, RequestId, whole_granules

LINEAR_AT = (256, 4096)
"""Prompt lengths (tokens) between which the low-end's prefill time is taken to be a straight line, as the paper's Eq. 2."""
IN_PREFILL = 2
"""Requests whose partial prefill is under way or waits for its turn on one low-end, at most (the paper's section 4.2: "at most two").

One whose part is done and waits to be pulled is not counted: whether the paper's two include it could not be read."""
REMEMBERED = 100_000
"""Splits of requests that may still wait."""


class Cronus(FixedCut):
    name = "cronus"

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        self._splits: dict[RequestId, int] = {}

    def assist(self, view: ClusterView, worker: WorkerView) -> Assist | None:
        """The oldest prompt: its split is fixed now. One that the high-end had better do alone goes to it at once."""
        if worker.growing >= IN_PREFILL:
            return None
        for waiting in view.waiting.without_head_start():
            if waiting.request_id in self._splits and not self._splits[waiting.request_id]:
                continue
            goal = assist_limit(worker, waiting.num_tokens, self._split(view, worker, waiting))
            if goal and not waiting.assists_lost:
                self._splits[waiting.request_id] = goal
                return Assist(waiting.request_id, goal)
            if goal < whole_granules(waiting.num_tokens - 1) and worker.free.blocks * worker.block_tokens < GRANULE_TOKENS:
                return None
            self._splits[waiting.request_id] = 0
        return None

    def _split(self, view: ClusterView, worker: WorkerView, waiting: WaitingView) -> int:
        if len(self._splits) > REMEMBERED:
            self._splits = {request_id: split for request_id, split in self._splits.items() if view.waiting.get(request_id)}
        owners = [view.workers[ref] for ref in view.roles.owners if view.workers[ref].fingerprint == worker.fingerprint]
        if not owners:
            return 0
        owner = min(owners, key=lambda one: (one.queued_tokens / one.speed, one.ref))
        return split(waiting.num_tokens, worker.profile, owner)

    def _goal(self, waiting: WaitingView) -> int:
        return self._splits.get(waiting.request_id, 0)

    def _ready(self, view: ClusterView, waiting: WaitingView) -> bool:
        """Everybody goes by the low-end first, if there is one."""
        if view.roles.assistants and waiting.request_id not in self._splits and not waiting.assists_lost:
            return False
        return super()._ready(view, waiting)


def split(num_tokens: int, low: Profile, owner: WorkerView) -> int:
    """Whole granules for the low-end, at most `num_tokens - 1`, that make both stages as equal as can be.

    `T_P` rises with the split and `T_C` falls, so the best granule is found by bisection.
    """
    few, many = 0, whole_granules(num_tokens - 1) // GRANULE_TOKENS
    while few < many:
        middle = (few + many) // 2
        if low_seconds(low, middle * GRANULE_TOKENS) < high_seconds(owner, middle * GRANULE_TOKENS, num_tokens):
            few = middle + 1
        else:
            many = middle
    candidates = [granules * GRANULE_TOKENS for granules in (few - 1, few) if granules >= 0]
    return min(candidates, key=lambda cut: abs(low_seconds(low, cut) - high_seconds(owner, cut, num_tokens)))


def low_seconds(low: Profile, tokens: int) -> float:
    """Eq. 2: the low-end's one-shot prefill, a straight line in its length; nothing takes no time."""
    if not tokens:
        return 0.0
    short, long = (low.prefill_seconds(0, at, at) for at in LINEAR_AT)
    slope = (long - short) / (LINEAR_AT[1] - LINEAR_AT[0])
    return max(0.0, short + slope * (tokens - LINEAR_AT[0]))


def high_seconds(owner: WorkerView, cut: int, num_tokens: int) -> float:
    """Eq. 3 summed over the iterations that are left: each a full token budget, linear in prefill and decode context."""
    profile, decodes = owner.profile, owner.decodes
    chunk = max(1, owner.token_budget - decodes)
    iterations = ceil((num_tokens - cut) / chunk)
    fixed = profile.step_seconds(StepShape(chunk, 0, decodes, 0))
    decode_context = iterations * owner.decode_context + decodes * iterations * (iterations - 1) / 2
    prefill_context = iterations * cut + chunk * iterations * (iterations - 1) / 2
    return iterations * fixed + profile.decode_context_s * decode_context + chunk * profile.prefill_pair_s * prefill_context
