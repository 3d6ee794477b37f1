"""Steps without arrays: a device model asks a step for its shape alone. What is in a step is the real batching's choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.profile import StepShape
from shared.types import SamplingParams
from workers.batching import PlannedStep, Row, StepBuilder
from workers.core import WorkerCore
from workers.engine import Sample, StepPlan
from workers.prefix_cache import Content
from workers.sequence import Sequence
from workers.settings import WorkerSettings

NOTHING = np.zeros(0, dtype=np.int32)
SAMPLE = Sample(0, SamplingParams(max_tokens=1, temperature=0.0), 0, 0)
"""Of every row that samples: nobody computes it."""


NO_WORK = StepShape(0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class ShapedPlan(StepPlan):
    """A plan whose arrays are empty, for nobody to compute."""

    shape: StepShape = NO_WORK


class ShapeBuilder(StepBuilder):
    """Fills a step like the one it stands for, and counts instead of laying out."""

    def __init__(self, step: int, *, block_tokens: int, token_budget: int, max_rows: int) -> None:
        super().__init__(step, block_tokens=block_tokens, token_budget=token_budget, max_rows=max_rows, previous=None)
        self._sampled = self._decodes = self._decode_context = self._prefill_context = 0

    def add(self, sequence: Sequence, count: int) -> None:
        """As the real one: a row of one token behind others is a decode, everything else prefill."""
        start = sequence.num_planned
        stop = start + count
        sampled = stop == sequence.samples_at
        self._rows.append(Row(sequence, sequence.run, start, count, self._sampled if sampled else -1))
        self._sampled += sampled
        if count == 1 and start:
            self._decodes += 1
            self._decode_context += stop
        else:
            self._prefill_context += count * start + count * (count + 1) // 2
        sequence.num_planned = stop
        sequence.pending += sampled
        self.left -= count
        self._tokens += count

    def build(self) -> PlannedStep | None:
        if not self._rows:
            return None
        shape = StepShape(self._tokens - self._decodes, self._prefill_context, self._decodes, self._decode_context)
        samples = (SAMPLE,) * self._sampled
        empty = (NOTHING,) * 7
        return PlannedStep(ShapedPlan(self._step, *empty, samples, shape), tuple(self._rows), self._written())


class ShapedCore(WorkerCore):
    """The worker's own core; its plans are never laid out, and its blocks are named by where they stand instead of by a hash."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._named: dict[tuple[str, int], Content] = {}

    def _new_builder(self) -> StepBuilder:
        settings = self.settings
        return ShapeBuilder(
            self._steps + 1, block_tokens=settings.block_tokens, token_budget=settings.token_budget, max_rows=settings.max_sequences
        )

    def _shape_of(self, plan: StepPlan) -> StepShape:
        assert isinstance(plan, ShapedPlan)
        return plan.shape

    def _content(self, sequence: Sequence, at: int, *, known: bool = False) -> Content | None:
        """No two requests begin alike here (each has a salt of its own), and the same one has the same tokens at each attempt."""
        if at < len(sequence.contents):
            return sequence.contents[at]
        place = (sequence.spec.salt, at)
        content = self._named.get(place)
        if content is None:
            if known:
                return None
            parent = sequence.contents[-1] if sequence.contents else self.root_of(sequence)
            content = self._named[place] = Content(parent, b"", b"")
        sequence.contents.append(content)
        return content
