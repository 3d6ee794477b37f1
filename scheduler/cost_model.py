"""What a placement takes and what it costs, from measured profiles. Pure arithmetic on views."""

from __future__ import annotations

from scheduler.view import Amount, WaitingView, WorkerView
from shared.types import whole_granules

STANDARD_PROMPT = 512
"""Tokens of the prompt by which free workers are compared."""


def blocks_for(tokens: int, block_tokens: int) -> int:
    return -(-tokens // block_tokens)


def can_hold(worker: WorkerView, num_tokens: int) -> bool:
    """Whether the empty worker could hold these tokens and one more."""
    return num_tokens < worker.capacity_tokens


def own_blocks(worker: WorkerView, waiting: WaitingView) -> int:
    """Blocks of a head start that this very worker gave: it keeps them when it becomes the owner."""
    held = waiting.head_start
    return held.offered // worker.block_tokens if held is not None and held.worker == worker.ref else 0


def assign_blocks(worker: WorkerView, waiting: WaitingView) -> int:
    """Blocks that owning this request takes beside those that the worker has given it already.

    The prompt once, and each choice's expected output; at most the whole worker: a request whose prompt fits is not kept from it by
    an output that might not.
    """
    blocks = -(-(waiting.num_tokens + waiting.expected_output) // worker.block_tokens)
    if waiting.num_choices > 1:
        blocks += (waiting.num_choices - 1) * (blocks - shared_blocks(worker, waiting))
    blocks = min(worker.total_blocks, blocks)
    return max(0, blocks - own_blocks(worker, waiting))


def shared_blocks(worker: WorkerView, waiting: WaitingView) -> int:
    """Blocks of the prompt that all choices have in common: its last token is computed for each."""
    return max(0, waiting.num_prompt - 1) // worker.block_tokens


def assign_amount(worker: WorkerView, waiting: WaitingView, cut: int = 0) -> Amount:
    """What owning this request takes, `[0, cut)` being computed elsewhere or cached."""
    tokens, choices = waiting.num_tokens, waiting.num_choices
    if choices > 1:
        tokens += (choices - 1) * (tokens - shared_blocks(worker, waiting) * worker.block_tokens)
    return Amount(tokens - cut, assign_blocks(worker, waiting), choices - gave(worker, waiting))


def gave(worker: WorkerView, waiting: WaitingView) -> bool:
    """Whether its head start is this very worker's: then it has a place there already."""
    return waiting.head_start is not None and waiting.head_start.worker == worker.ref


def fits(worker: WorkerView, waiting: WaitingView) -> bool:
    """Whether the worker could take this request now. An idle worker needs room for the prompt alone, and a place for one choice."""
    free, idle = worker.free, worker.owned == 0
    if free.tokens <= 0 or not can_hold(worker, waiting.num_tokens):
        return False
    if (1 if idle else waiting.num_choices) - gave(worker, waiting) > free.sequences:
        return False
    if assign_blocks(worker, waiting) <= free.blocks:
        return True
    return idle and blocks_for(waiting.num_tokens + 1, worker.block_tokens) - own_blocks(worker, waiting) <= free.blocks


def granted(worker: WorkerView, amount: Amount) -> Amount:
    """What is written down for a job that `fits`: never more blocks or places than there are."""
    free = worker.free
    return Amount(amount.tokens, min(amount.blocks, max(0, free.blocks)), min(amount.sequences, max(0, free.sequences)))


def assist_amount(worker: WorkerView, limit: int) -> Amount:
    return Amount(0, blocks_for(limit, worker.block_tokens), 1)


def assist_limit(worker: WorkerView, num_tokens: int, goal: int | None = None) -> int:
    """How far a head start could go here: whole granules, the last token left to the owner, within the free blocks."""
    room = max(0, worker.free.blocks) * worker.block_tokens
    wanted = num_tokens - 1 if goal is None else min(goal, num_tokens - 1)
    return whole_granules(min(wanted, room))


def usable_cut(waiting: WaitingView) -> int:
    """Tokens of its head start that an owner could use: whole granules, at most all but the last token."""
    if waiting.head_start is None:
        return 0
    return whole_granules(min(waiting.head_start.offered, waiting.num_tokens - 1))


def pull_seconds(owner: WorkerView, giver: WorkerView, cut: int) -> float:
    """One transfer between two workers goes at the pace of the slower link; none within one worker."""
    if owner.ref == giver.ref:
        return 0.0
    return max(owner.profile.transfer_seconds(cut), giver.profile.transfer_seconds(cut))


def prefill_seconds(worker: WorkerView, start: int, stop: int) -> float:
    return worker.profile.prefill_seconds(start, stop, worker.token_budget)


def queued_seconds(worker: WorkerView) -> float:
    """Seconds until the prefill that it already has is done, at its profiled throughput."""
    return worker.queued_tokens / worker.speed


def standard_seconds(worker: WorkerView) -> float:
    """Seconds until a standard prompt would be prefilled here: what free workers are ranked by."""
    return (worker.queued_tokens + STANDARD_PROMPT) / worker.speed


def request_rate(worker: WorkerView, waiting: WaitingView) -> float:
    """Requests like this one that the worker alone could serve in a second: prefill, and decode in as large a batch as memory holds.

    The throughput model of the instance profile in arXiv 2504.15303, as far as it is known: a batch prefills, then decodes together.
    """
    output, profile = waiting.expected_output, worker.profile
    context = waiting.num_tokens + output / 2
    batch = max(1.0, min(worker.total_blocks * worker.block_tokens / (waiting.num_tokens + output), float(worker.token_budget)))
    decode = profile.step_s + batch * (profile.decode_s + context * profile.decode_context_s)
    seconds = batch * prefill_seconds(worker, 0, waiting.num_tokens) + output * decode
    return batch / max(seconds, 1e-9)
