"""Measures one engine: steps of every class in rounds, and the profile by which the scheduler knows its speed.

Rounds, forwards and backwards in turn, let a noisy moment touch every shape alike; of each shape the median counts. On a CPU that
neighbours use too, a step counts for the time that it computed: what they take is for live step times to tell, as they come and go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from statistics import median

from shared.profile import Profile
from shared.types import GRANULE_TOKENS, BlockId, TokenSpan, whole_granules
from workers.engine import Engine
from workers.processor import processor_quota
from workers.profile_budget import Pace, calibration, cut
from workers.profile_fit import Measured, errors, fit_profile
from workers.profile_shapes import Bounds, StepClass, Work, works
from workers.step_plans import Piece, write_plan

CONTEXT_TOKENS = 1024
"""The longest context measured, memory permitting: long enough that attention shows beside the linear layers."""
MAX_ROUNDS = 8
FIRST_ROUND_SHARE = 0.5
"""Of the time: a device so slow that it does not see every shape in it is measured at the first ones alone, all of them again."""
LEAST_STEPS = 18
FEWEST_STEPS = 9
"""Where even steps as small as can be are so slow that no more fit into the limit, it ends with these."""
LIMIT_S = 110.0
"""No measurement of steps takes longer, however slow they are: the plan is cut to what fits."""
WARM_UP_SHARE = 0.05
"""Of the limit."""


def _unseen(_: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Samples:
    """Median seconds of every step that was measured."""

    fitted: tuple[Measured, ...]
    held_out: tuple[Measured, ...]
    rounds: int

    def profile(self, kv_bytes_per_token: int) -> Profile:
        return fit_profile(self.fitted, kv_bytes_per_token)

    def errors(self, profile: Profile) -> dict[StepClass, float]:
        """Median relative errors over the steps that the profile was not fitted to."""
        return errors(profile, self.held_out)


def profile_engine(
    engine: Engine,
    *,
    token_budget: int = 512,
    max_sequences: int = 32,
    seconds: float = 5.0,
    max_rounds: int = MAX_ROUNDS,
    progress: Callable[[float], None] = _unseen,
) -> Profile:
    """Profile of an engine that serves nobody yet: it uses the engine's first blocks, and leaves their content undefined."""
    measured = measure(engine, token_budget, max_sequences, seconds, max_rounds=max_rounds, progress=progress)
    return measured.profile(engine.kv.bytes_per_token)


def measure(
    engine: Engine,
    token_budget: int,
    max_sequences: int,
    seconds: float,
    *,
    max_rounds: int = MAX_ROUNDS,
    progress: Callable[[float], None] = _unseen,
    clock: Callable[[], float] = time.perf_counter,
) -> Samples:
    """Takes about `seconds`, at least `LEAST_STEPS` steps of at most `token_budget` tokens, and at most `LIMIT_S` by `clock`.

    `progress` hears the share done.
    """
    return _Measuring(engine, bounds_of(engine, token_budget, max_sequences), seconds, max_rounds, progress, clock).run()


def bounds_of(engine: Engine, token_budget: int, max_sequences: int) -> Bounds:
    """Contexts are whole granules, as many as the model and its cache allow two sequences."""
    room = min(CONTEXT_TOKENS, engine.max_model_tokens, engine.total_blocks // 2 * engine.block_tokens)
    return Bounds(token_budget, max_sequences + 1, whole_granules(room) or room, engine.total_blocks, engine.block_tokens)


class _Measuring:
    def __init__(
        self,
        engine: Engine,
        bounds: Bounds,
        seconds: float,
        max_rounds: int,
        progress: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._seconds, self._max_rounds, self._progress, self._clock = engine, seconds, max_rounds, progress, clock
        self._bounds = bounds
        self._works = works(bounds)
        self._pace = Pace()
        self._steps = count()
        self._began = clock()
        self._rounds: list[list[float]] = []
        self._round_s = 0.0
        """By the clock: what somebody else takes of the processor is not in the samples, and passes all the same."""
        self._in_peace = processor_quota() is None
        """Whether a step may be taken for the time that it computed: a quota is part of the device, neighbours are not."""

    def run(self) -> Samples:
        self._calibrate()
        self._write_blocks()
        self._warm_up()
        self._first_round()
        while len(self._rounds) < self._max_rounds and self._spent + self._round_s < min(self._seconds, LIMIT_S):
            self._next_round()
        times = [median(taken) for taken in zip(*self._rounds, strict=True)]
        measured = [(work, (work.shape, taken)) for work, taken in zip(self._works, times, strict=True)]
        fitted = tuple(sample for work, sample in measured if not work.held_out)
        return Samples(fitted, tuple(sample for work, sample in measured if work.held_out), len(self._rounds))

    @property
    def _spent(self) -> float:
        return self._clock() - self._began

    def _calibrate(self) -> None:
        """Two small steps, once for nothing: the first steps of a process are not like later ones. The plan is cut to what they promise."""
        steps = calibration(self._bounds)
        self._run(steps[0])
        for work in steps:
            self._watched(work)
        self._cut([])

    def _cut(self, done: Sequence[Work]) -> None:
        wanted = max(0, LEAST_STEPS - len(done))
        self._bounds, self._works = cut(self._bounds, self._pace, done, wanted, LIMIT_S - self._spent)

    def _watched(self, work: Work) -> float:
        began = self._clock()
        taken = self._run(work)
        self._pace.saw(work, self._clock() - began)
        return taken

    def _warm_up(self) -> None:
        """Memory is touched, kernels are chosen. Where a step takes seconds, that is a small part of it."""
        if self._pace.expected(self._works[:3]) < WARM_UP_SHARE * LIMIT_S:
            for work in self._works[:3]:
                self._run(work)

    def _first_round(self) -> None:
        began, done, taken = self._clock(), list[Work](), list[float]()
        while (work := self._next(done)) is not None:
            taken.append(self._watched(work))
            done.append(work)
            self._tell(len(taken) / (len(self._works) + len(taken)))
        self._works = done
        self._rounds.append(taken)
        self._round_s = self._clock() - began

    def _next(self, done: Sequence[Work]) -> Work | None:
        """None when the time is up. A plan that turns out to be dearer than was thought is cut again."""
        if len(done) >= LEAST_STEPS and self._spent > FIRST_ROUND_SHARE * self._seconds:
            return None
        self._cut(done)
        if not self._works:
            return None
        late = self._spent + self._pace.expected(self._works[:1]) > LIMIT_S
        return None if late and len(done) >= FEWEST_STEPS else self._works[0]

    def _next_round(self) -> None:
        began, forwards = self._clock(), len(self._rounds) % 2 == 0
        taken = [self._run(work) for work in (self._works if forwards else reversed(self._works))]
        self._rounds.append(taken if forwards else taken[::-1])
        self._round_s = self._clock() - began
        self._tell(0.0)

    def _tell(self, of_round: float) -> None:
        by_rounds = (len(self._rounds) + of_round) / self._max_rounds
        self._progress(min(1.0, max(by_rounds, self._spent / self._seconds if self._seconds else 1.0)))

    def _write_blocks(self) -> None:
        """Nobody attends to memory that was never written: zeros are copied over all blocks that steps will read."""
        used = max(sum(map(self._blocks_of, work.sequences)) for work in self._works)
        size, longest = self._engine.block_tokens, self._bounds.max_context
        if longest < GRANULE_TOKENS:
            for block in range(used):
                self._compute([block], min(size, longest))
            return
        each = GRANULE_TOKENS // size
        payload = memoryview(bytearray(GRANULE_TOKENS * self._engine.kv.bytes_per_token))
        for first in range(0, used, each):
            first = min(first, self._engine.total_blocks - each)
            self._engine.scatter(_ids(first, first + each), TokenSpan(0, GRANULE_TOKENS), payload)

    def _compute(self, blocks: Sequence[int], tokens: int) -> None:
        """In steps within the budget."""
        for start in range(0, tokens, self._bounds.token_budget):
            count = min(self._bounds.token_budget, tokens - start)
            self._step([Piece([1] * count, start, blocks, [count - 1])])

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self._engine.block_tokens)

    def _run(self, work: Work) -> float:
        """Seconds of one step; decodes and the end of a prefill are sampled, as they are in service."""
        ends = list(accumulate((self._blocks_of(tokens) for tokens in work.sequences), initial=0))
        tables = [range(*ends_of) for ends_of in pairwise(ends)]
        pieces = [Piece([1], work.context - 1, table, [0]) for table in tables[len(tables) - work.decodes :]]
        if tokens := work.stop - work.start:
            pieces.append(Piece([1] * tokens, work.start, tables[0], [tokens - 1]))
        return self._step(pieces)

    def _step(self, pieces: Sequence[Piece]) -> float:
        self._engine.launch(write_plan(next(self._steps), pieces, self._engine.block_tokens))
        result = self._engine.collect()
        alone = result.computing_s if self._in_peace else 0.0
        return min(result.seconds, alone or result.seconds)


def _ids(start: int, stop: int) -> tuple[BlockId, ...]:
    return tuple(map(BlockId, range(start, stop)))
