"""One step's plan: which tokens of which sequences, laid out flat for the engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.types import BlockId
from workers.engine import Int32, Sample, StepPlan
from workers.sequence import Sequence


class Row(NamedTuple):
    """Tokens `[start, start + count)` of a sequence in one step; its result counts only while `run` is the sequence's."""

    sequence: Sequence
    run: int
    start: int
    count: int  # type: ignore[assignment]  # as everywhere; a row is no sequence to count in
    sample: int
    """Position in the plan's `samples`, -1 if this chunk does not reach the end."""

    @property
    def live(self) -> bool:
        return self.run == self.sequence.run


@dataclass(frozen=True, slots=True)
class PlannedStep:
    plan: StepPlan
    rows: tuple[Row, ...]
    written: tuple[BlockId, ...]
    """Blocks that this step writes: not to be handed out before it is collected."""

    @property
    def step(self) -> int:
        return self.plan.step


def step_order(owned: Iterable[Sequence], assists: Iterable[Sequence]) -> list[Sequence]:
    """Decodes first, then prefill chunks of owned sequences, then of head starts; each in order of arrival."""
    decodes, prefills = list[Sequence](), list[Sequence]()
    for sequence in owned:
        if left := sequence.left:
            (decodes if left == 1 else prefills).append(sequence)
    return decodes + prefills + [sequence for sequence in assists if sequence.left]


class StepBuilder:
    """Fills one step within its token budget. `previous` is the launched step whose samples may still be unknown."""

    def __init__(self, step: int, *, block_tokens: int, token_budget: int, max_rows: int, previous: PlannedStep | None) -> None:
        self._step = step
        self._block_tokens = block_tokens
        self._max_rows = max_rows
        self._unknown = {id(row.sequence): row for row in previous.rows if row.sample >= 0} if previous else {}
        self.left = token_budget
        self._rows: list[Row] = []
        self._samples: list[Sample] = []
        self._tokens = 0

    @property
    def full(self) -> bool:
        return self.left <= 0 or len(self._rows) >= self._max_rows

    def has(self, sequence: Sequence) -> bool:
        return any(row.sequence is sequence for row in self._rows)

    def add(self, sequence: Sequence, count: int) -> None:
        """The next `count` tokens of `sequence`, whose blocks already reach that far."""
        start = sequence.num_planned
        sampled = start + count == sequence.samples_at
        sample = -1
        if sampled:
            sample = len(self._samples)
            self._samples.append(self._sample(sequence, self._tokens + count - 1))
        self._rows.append(Row(sequence, sequence.run, start, count, sample))
        sequence.plan(count, sampled=sampled)
        self.left -= count
        self._tokens += count

    def _sample(self, sequence: Sequence, at: int) -> Sample:
        pending = sequence.pending
        index = sequence.num_tokens - sequence.num_prompt + pending
        history = sequence.history(self._unknown[id(sequence)].sample if pending else -1) if sequence.remembers else None
        return Sample(at, sequence.spec.sampling, sequence.choice, index, history)

    def build(self) -> PlannedStep | None:
        """The step, or None if there is nothing to do."""
        if not self._rows:
            return None
        counts = np.array([row.count for row in self._rows], dtype=np.int32)
        starts = np.zeros(len(counts) + 1, dtype=np.int32)
        np.cumsum(counts, out=starts[1:])
        first = np.array([row.start for row in self._rows], dtype=np.int32)
        positions = np.arange(self._tokens, dtype=np.int32) + np.repeat(first - starts[:-1], counts).astype(np.int32)
        tables = self._tables()
        slots = self._slots(tables, np.repeat(np.arange(len(counts)), counts).astype(np.int32), positions)
        ids, inputs = self._ids(starts)
        plan = StepPlan(self._step, ids, inputs, positions, slots, starts, first + counts, tables, tuple(self._samples))
        return PlannedStep(plan, tuple(self._rows), self._written())

    def _ids(self, starts: Int32) -> tuple[Int32, Int32]:
        """Known ids, and for a token that the previous step still samples a reference to that sample."""
        ids = np.zeros(self._tokens, dtype=np.int32)
        inputs = np.full(self._tokens, -1, dtype=np.int32)
        unknown: list[tuple[int, int]] = []
        for at, (sequence, _, start, count, _) in zip(starts.tolist(), self._rows, strict=False):
            known = min(count, sequence.num_tokens - start)
            if known:
                ids[at : at + known] = sequence.ids(start, start + known)
            if known < count:
                unknown.append((at + known, self._unknown[id(sequence)].sample))
        if unknown:
            where, samples = zip(*unknown, strict=True)
            inputs[list(where)] = samples
        return ids, inputs

    def _tables(self) -> Int32:
        rows = [row.sequence.table() for row in self._rows]
        lengths = np.array([len(row) for row in rows])
        tables = np.full((len(rows), lengths.max()), -1, dtype=np.int32)
        tables[np.arange(tables.shape[1]) < lengths[:, None]] = np.concatenate(rows)
        return tables

    def _slots(self, tables: Int32, rows: Int32, positions: Int32) -> Int32:
        blocks = tables[rows, positions // self._block_tokens]
        slots: Int32 = blocks * np.int32(self._block_tokens) + positions % np.int32(self._block_tokens)
        return slots

    def _written(self) -> tuple[BlockId, ...]:
        size = self._block_tokens
        written: list[BlockId] = []
        for sequence, _, start, count, _ in self._rows:
            if count == 1:
                written.append(sequence.blocks[start // size])
            else:
                written += sequence.blocks[start // size : (start + count - 1) // size + 1]
        return tuple(written)
