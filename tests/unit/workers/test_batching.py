"""A step's plan is flat, int32, C-contiguous, and says exactly which slot each token's KV goes to."""

from __future__ import annotations

import numpy as np

from shared.types import BlockId
from tests.support.core_harness import make_spec
from workers.batching import StepBuilder, step_order
from workers.sequence import Sequence


def sequence(num_prompt: int, blocks: list[int], *, computed: int = 0, limit: int | None = None) -> Sequence:
    made = Sequence(make_spec(f"r{num_prompt}", num_prompt), (), 0, max_tokens=1000, limit=limit)
    made.blocks = [BlockId(number) for number in blocks]
    made.rewind(computed)
    return made


def builder(budget: int = 64) -> StepBuilder:
    return StepBuilder(1, block_tokens=4, token_budget=budget, max_rows=8, previous=None)


def test_the_arrays_of_two_sequences() -> None:
    build = builder()
    build.add(sequence(6, [9, 2]), 6)
    build.add(sequence(12, [5, 7, 1], computed=3), 4)
    step = build.build()
    assert step is not None
    plan = step.plan
    assert plan.positions.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6]
    assert plan.slots.tolist() == [36, 37, 38, 39, 8, 9, 23, 28, 29, 30]
    assert plan.starts.tolist() == [0, 6, 10]
    assert plan.contexts.tolist() == [6, 7]
    assert plan.block_tables.tolist() == [[9, 2, -1], [5, 7, 1]]
    assert [(sample.row, sample.index) for sample in plan.samples] == [(5, 0)]
    assert step.written == (9, 2, 5, 7)


def test_every_array_is_what_an_engine_expects() -> None:
    build = builder()
    build.add(sequence(6, [0, 1]), 5)
    step = build.build()
    assert step is not None
    plan = step.plan
    for array in (plan.token_ids, plan.inputs, plan.positions, plan.slots, plan.starts, plan.contexts, plan.block_tables):
        assert array.dtype == np.int32
        assert array.flags.c_contiguous


def test_nothing_to_do_is_no_step() -> None:
    assert builder().build() is None


def test_the_budget_bounds_the_step() -> None:
    build = builder(budget=5)
    build.add(sequence(6, [0, 1]), 5)
    assert build.full


def test_a_row_counts_only_while_its_run_does() -> None:
    build, made = builder(), sequence(6, [0, 1])
    build.add(made, 6)
    step = build.build()
    assert step is not None
    before = step.rows[0].live
    made.rewind()
    assert (before, step.rows[0].live) == (True, False)


def test_decodes_go_first_and_head_starts_last() -> None:
    decode, prefill, assist = sequence(9, [0, 1, 2], computed=8), sequence(20, []), sequence(30, [], limit=16)
    done = sequence(16, [], limit=0)
    assert step_order([prefill, decode], [assist, done]) == [decode, prefill, assist]
