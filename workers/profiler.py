"""Measures one engine quickly, and fits the profile by which the scheduler knows its speed.

A few steps of each kind (prefill alone, decode alone, both) are run in rounds, so that a noisy moment touches every shape
alike; the profile is the non-negative least squares fit of their median times, relative errors weighted alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, count
from statistics import median

import numpy as np

from shared.profile import Profile, StepShape
from shared.types import GRANULE_TOKENS, BlockId, TokenSpan, whole_granules
from workers.engine import Engine
from workers.step_plans import Piece, write_plan

CONTEXT_TOKENS = 8 * GRANULE_TOKENS
"""The longest context measured, memory permitting: long enough that attention shows beside the linear layers."""
MAX_ROUNDS = 6

Measured = tuple[StepShape, float]
"""A step's shape and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A step to measure: a prefill of `[start, stop)` in the first sequence beside decodes of the others at `context`."""

    start: int = 0
    stop: int = 0
    decodes: int = 0
    context: int = 0

    @property
    def shape(self) -> StepShape:
        pairs = (self.stop * (self.stop + 1) - self.start * (self.start + 1)) // 2
        return StepShape(self.stop - self.start, pairs, self.decodes, self.decodes * self.context)


def _unseen(_: float) -> None: ...


def profile_engine(
    engine: Engine, *, token_budget: int = 512, max_sequences: int = 32, seconds: float = 5.0, progress: Callable[[float], None] = _unseen
) -> Profile:
    """Profile of an engine that serves nobody yet: it uses the engine's first blocks, and leaves their content undefined.

    Takes about `seconds`, at least one round of some twelve steps of at most `token_budget` tokens. `progress` hears the share done.
    """
    return fit_profile(measure(engine, token_budget, max_sequences, seconds, progress), engine.kv.bytes_per_token)


def measure(
    engine: Engine, token_budget: int, max_sequences: int, seconds: float, progress: Callable[[float], None] = _unseen
) -> list[Measured]:
    """Median step times of the engine over the shapes that fit it. The first round, cold, counts only if it is the only one."""
    began = time.perf_counter()
    blocks = _sequences(engine, max_sequences)
    works = _works(len(blocks), _context(engine), token_budget)
    steps = count()
    _fill(engine, blocks, token_budget, steps)
    rounds: list[list[float]] = []
    while len(rounds) < MAX_ROUNDS and (not rounds or time.perf_counter() - began < seconds):
        rounds.append([_run(engine, work, blocks, next(steps)) for work in works])
        progress(min(1.0, max(len(rounds) / MAX_ROUNDS, (time.perf_counter() - began) / seconds if seconds else 1.0)))
    times = zip(*(rounds[1:] or rounds), strict=True)
    return [(work.shape, median(taken)) for work, taken in zip(works, times, strict=True)]


def fit_profile(measured: Sequence[Measured], kv_bytes_per_token: int) -> Profile:
    """The additive step model (see `Profile.step_seconds`) that comes closest to the measured times."""
    rows = [(1.0, s.prefill_tokens, s.prefill_context, s.decodes, s.decode_context) for s, _ in measured]
    taken = np.array([max(seconds, 1e-9) for _, seconds in measured])
    per_step, per_token, per_pair, per_decode, per_context = non_negative_fit(np.array(rows) / taken[:, None], np.ones(len(taken)))
    return Profile(per_step, per_token, per_pair, per_decode, per_context, kv_bytes_per_token)


def non_negative_fit(a: np.typing.NDArray[np.float64], b: np.typing.NDArray[np.float64]) -> list[float]:
    """The x >= 0 that minimises |a x - b|: with so few columns, the best of the unconstrained fits over all their subsets.

    The solution of non-negative least squares is the unconstrained one over its own support (Lawson and Hanson, 1974).
    """
    scale = np.maximum(np.abs(a).max(axis=0), 1e-30)
    best, least = np.zeros(a.shape[1]), float(b @ b)
    for size in range(1, a.shape[1] + 1):
        for support in map(list, combinations(range(a.shape[1]), size)):
            found = np.linalg.lstsq(a[:, support] / scale[support], b, rcond=None)[0] / scale[support]
            miss = a[:, support] @ found - b
            if (found >= 0).all() and float(miss @ miss) < least:
                least, best = float(miss @ miss), np.zeros(a.shape[1])
                best[support] = found
    return [float(x) for x in best]


def _context(engine: Engine) -> int:
    """Tokens of context to measure at: whole granules, as many as the model and its cache allow two sequences."""
    room = min(CONTEXT_TOKENS, engine.max_model_tokens, engine.total_blocks // 2 * engine.block_tokens)
    return whole_granules(room) or room


def _sequences(engine: Engine, max_sequences: int) -> list[tuple[BlockId, ...]]:
    """Blocks of as many sequences of the measured context as fit, at least two."""
    each = -(-_context(engine) // engine.block_tokens)
    sequences = min(max_sequences + 1, engine.total_blocks // each)
    return [tuple(map(BlockId, range(s * each, (s + 1) * each))) for s in range(sequences)]


def _works(sequences: int, context: int, token_budget: int) -> list[_Work]:
    chunk = min(token_budget, context)
    prefills = [_Work(stop=stop) for stop in sorted({max(1, chunk // 16), chunk // 4 or 1, chunk})]
    later = [_Work(start=context - n, stop=context) for n in sorted({max(1, chunk // 16), chunk // 4 or 1}) if n < context]
    batches = sorted({1, min(8, sequences - 1), sequences - 1})
    decodes = [_Work(decodes=n, context=c) for n in batches for c in sorted({max(1, context // 8), context})]
    mixed = [_Work(stop=max(1, chunk // 4), decodes=batches[-1], context=max(1, context // 2))]
    return prefills + later + decodes + mixed


def _fill(engine: Engine, blocks: Sequence[tuple[BlockId, ...]], token_budget: int, steps: count[int]) -> None:
    """Computes one context and copies it to the other sequences: nobody attends to memory that was never written."""
    context = _context(engine)
    for start in range(0, context, token_budget):
        _run(engine, _Work(start=start, stop=min(context, start + token_budget)), blocks, next(steps))
    if context % GRANULE_TOKENS:
        for other in range(1, len(blocks)):
            _run(engine, _Work(stop=context), [blocks[other]], next(steps))
        return
    payload = memoryview(bytearray(context * engine.kv.bytes_per_token))
    engine.gather(blocks[0], TokenSpan(0, context), payload)
    for copied in blocks[1:]:
        engine.scatter(copied, TokenSpan(0, context), payload)


def _run(engine: Engine, work: _Work, blocks: Sequence[tuple[BlockId, ...]], step: int) -> float:
    """Seconds of one step; decodes and the end of a prefill are sampled, as they are in service."""
    pieces = [Piece([1], work.context - 1, blocks[1 + s], [0]) for s in range(work.decodes)]
    if tokens := work.stop - work.start:
        pieces.append(Piece([1] * tokens, work.start, blocks[0], [tokens - 1]))
    engine.launch(write_plan(step, pieces, engine.block_tokens))
    return engine.collect().seconds
