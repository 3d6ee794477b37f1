"""What one worker would make of one waiting request: the parts of its score, and the number they come to. Pure; nothing is decided here.

Compute and memory count together, as in arXiv 2504.15303: `cost = ttft_s * (1 + share of KV memory in use afterwards)`. Its
authors' weights are not published; with equal memory the least work wins, as it should with equal workers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from scheduler.cost_model import assign_blocks, assist_amount, prefill_seconds, pull_seconds, queued_seconds, usable_cut
from scheduler.view import ClusterView, WaitingView, WorkerView
from shared.types import WorkerRef


class Role(StrEnum):
    TAKE = "take"
    HEAD_START = "head start"
    WHOLE = "whole"
    """A low-end serves the request from its first token to its last."""


TAKE, HEAD_START, WHOLE = Role


class Score(NamedTuple):
    """Seconds are predictions by the worker's own profile."""

    worker: WorkerRef
    role: Role
    queued_s: float
    """Until the prefill that it has already is done."""
    pull_s: float
    prefill_s: float
    """Of what neither pull nor cache brings, in the room that its decodes leave."""
    prefix: int
    """Tokens that it should hold in cache."""
    free_kv: float
    """Share of its KV memory that is free afterwards."""
    itl_s: float
    """Between two tokens of this request, as busy as the worker is now."""
    usd: float
    """Dollars of its time that this request takes; 0: its price is not known."""
    output: int
    """Tokens that such requests generate, as much as is reserved for: rather a long answer than a short one."""

    @property
    def ttft_s(self) -> float:
        return self.queued_s + self.pull_s + self.prefill_s

    @property
    def finish_s(self) -> float:
        return self.ttft_s + self.output * self.itl_s

    @property
    def cost(self) -> float:
        """The smallest wins."""
        return self.ttft_s * (2.0 - self.free_kv)


def score(
    worker: WorkerView, waiting: WaitingView, role: Role = TAKE, *, giver: WorkerView | None = None, cut: int = 0, cached: int = 0
) -> Score:
    """Of `worker` in `role`. An owner pulls `[cached, cut)` from `giver`; of a head start `cut` is the limit, and pulled by nobody yet."""
    if role is HEAD_START:
        return _head_start(worker, waiting, cut, cached)
    start, output = max(cut, cached), waiting.expected_output
    return Score(
        worker.ref,
        role,
        queued_seconds(worker),
        pull_seconds(worker, giver, cut - cached) if giver is not None and cut > cached else 0.0,
        prefill_beside_decodes(worker, start, waiting.num_tokens),
        cached,
        _free_after(worker, assign_blocks(worker, waiting)),
        itl_seconds(worker, waiting.num_tokens),
        dollars(worker, start, waiting.num_tokens, output),
        output,
    )


def _head_start(worker: WorkerView, waiting: WaitingView, limit: int, cached: int) -> Score:
    return Score(
        worker.ref,
        HEAD_START,
        queued_seconds(worker) + worker.growing_tokens / worker.speed,
        worker.profile.transfer_seconds(limit),
        prefill_beside_decodes(worker, min(cached, limit), limit),
        cached,
        _free_after(worker, assist_amount(worker, limit).blocks),
        0.0,
        dollars(worker, min(cached, limit), limit, 0),
        0,
    )


def giver_of(view: ClusterView, waiting: WaitingView) -> WorkerView | None:
    """Who holds its head start."""
    return view.workers.get(waiting.head_start.worker) if waiting.head_start else None


def useful_cut(view: ClusterView, worker: WorkerView, waiting: WaitingView) -> int:
    """Everything that is offered, if it saves more seconds of prefill than its transfer costs; else 0.

    Only what lies behind the worker's own cached prefix is pulled and counts. An offer that the cache should have already is
    given along: a worker that finds it there releases the offer unpulled, and one that does not is glad of it.
    """
    cut, giver = usable_cut(waiting), giver_of(view, waiting)
    if not cut or giver is None or giver.fingerprint != worker.fingerprint:
        return 0
    cached = view.prefixes.cached_tokens(worker.ref, waiting.prefix, waiting.num_tokens)
    start = cached if cached < cut else 0
    return cut if prefill_seconds(worker, start, cut) > pull_seconds(worker, giver, cut - start) else 0


def prefill_beside_decodes(worker: WorkerView, start: int, stop: int) -> float:
    """Seconds of prefill in steps that the worker's decodes share: they take their tokens of the budget, and their time."""
    profile, budget = worker.profile, max(1, worker.token_budget - worker.decodes)
    whole, rest = divmod(max(0, stop - start), budget)
    pairs = (stop * (stop + 1) - start * (start + 1)) / 2 if stop > start else 0.0
    full = whole * profile.seconds(budget, 0, worker.decodes, worker.decode_context) if whole else 0.0
    last = profile.seconds(rest, 0, worker.decodes, worker.decode_context) if rest else 0.0
    return profile.prefill_pair_s * pairs + (full + last)


def itl_seconds(worker: WorkerView, context: int) -> float:
    """One step with one more decode of `context` tokens, and with prefill beside it if there is some."""
    waiting = max(0, worker.queued_tokens) + worker.growing_tokens
    chunk = min(waiting, max(0, worker.token_budget - worker.decodes - 1))
    return worker.profile.seconds(chunk, 0, worker.decodes + 1, worker.decode_context + context)


def dollars(worker: WorkerView, start: int, stop: int, output: int) -> float:
    """Of the worker's time that this request takes; 0: its price is not known."""
    return worker.usd_per_hour / 3600 * device_seconds(worker, start, stop, output) if worker.usd_per_hour else 0.0


def device_seconds(worker: WorkerView, start: int, stop: int, output: int) -> float:
    """Of the device, this request alone: its prefill, and its part of the steps that decode it."""
    decodes = worker.decodes + 1
    step = worker.profile.seconds(0, 0, decodes, worker.decode_context + stop + output // 2)
    return prefill_seconds(worker, start, stop) + output * step / decodes


def _free_after(worker: WorkerView, blocks: int) -> float:
    return min(1.0, max(0, worker.free.blocks - blocks) / max(1, worker.total_blocks))
