"""The fake engine tells on whoever mixes up KV, and its oracle never looks at a cache."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import EngineError
from shared.profile import Profile
from shared.types import BlockId, SamplingParams, TokenSpan
from tests.support.core_harness import World, make_spec
from workers.batching import StepBuilder
from workers.engine import StepPlan
from workers.fake_engine import FakeEngine, FakeModel, mix, mix_array, reference_tokens
from workers.sequence import Sequence
from workers.step_shape import shape_of

GREEDY = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)


def prefilled(engine: FakeEngine, length: int, *, first_block: int = 0, name: str = "r") -> Sequence:
    """All but the last token of a prompt computed."""
    sequence = Sequence(make_spec(name, length), (), 0, max_tokens=engine.max_model_tokens)
    sequence.blocks = [BlockId(first_block + at) for at in range(-(-length // engine.block_tokens))]
    engine.launch(plan(engine, sequence, length - 1))
    engine.collect()
    sequence.computed(length - 1)
    return sequence


def plan(engine: FakeEngine, sequence: Sequence, count: int) -> StepPlan:
    builder = StepBuilder(1, block_tokens=engine.block_tokens, token_budget=100000, max_rows=1, previous=None)
    builder.add(sequence, count)
    step = builder.build()
    assert step is not None
    return step.plan


def next_token(engine: FakeEngine, sequence: Sequence) -> int:
    engine.launch(plan(engine, sequence, 1))
    return engine.collect().token_ids[0]


def expected(sequence: Sequence) -> int:
    return reference_tokens(sequence.spec.prompt, GREEDY)[0]


def test_the_answer_is_the_definitions() -> None:
    engine = FakeEngine(total_blocks=16)
    sequence = prefilled(engine, 100)
    assert next_token(engine, sequence) == expected(sequence)


@settings(max_examples=40, deadline=None)
@given(repeats=st.sampled_from((1, 3)), position=st.integers(0, 98), byte=st.integers(0, 15), flip=st.integers(1, 255))
def test_one_changed_byte_anywhere_changes_the_answer(repeats: int, position: int, byte: int, flip: int) -> None:
    engine = FakeEngine(FakeModel(vocab_size=2**40, repeats=repeats), total_blocks=16)
    sequence = prefilled(engine, 100)
    answer = reference_tokens(sequence.spec.prompt, GREEDY, engine.model)[0]
    span, data = TokenSpan(0, 99), bytearray(99 * engine.kv.bytes_per_token)
    engine.gather(tuple(sequence.blocks), span, memoryview(data))
    data[position * engine.kv.bytes_per_token + 16 * (repeats - 1) + byte] ^= flip
    engine.scatter(tuple(sequence.blocks), span, memoryview(data))
    assert next_token(engine, sequence) != answer


@pytest.mark.parametrize("swap", [(0, 1), (2, 5), (0, 6)])
def test_blocks_in_another_order_change_the_answer(swap: tuple[int, int]) -> None:
    engine = FakeEngine(FakeModel(vocab_size=2**40), total_blocks=16)
    sequence = prefilled(engine, 112)
    answer = reference_tokens(sequence.spec.prompt, GREEDY, engine.model)[0]
    one, other = swap
    blocks = list(sequence.blocks)
    blocks[one], blocks[other] = blocks[other], blocks[one]
    sequence.blocks = blocks
    assert next_token(engine, sequence) != answer


def test_another_requests_block_changes_the_answer() -> None:
    engine = FakeEngine(FakeModel(vocab_size=2**40), total_blocks=16)
    sequence, other = prefilled(engine, 100), prefilled(engine, 100, first_block=8, name="other")
    answer = reference_tokens(sequence.spec.prompt, GREEDY, engine.model)[0]
    sequence.blocks = [*sequence.blocks[:3], other.blocks[3], *sequence.blocks[4:]]
    assert next_token(engine, sequence) != answer


def test_a_seed_plays_a_part_only_when_sampling() -> None:
    prompt = (1, 2, 3)
    answers = {
        (temperature, seed): reference_tokens(prompt, SamplingParams(5, temperature=temperature, seed=seed, ignore_eos=True))
        for temperature in (0.0, 1.0)
        for seed in (1, 2)
    }
    assert answers[0.0, 1] == answers[0.0, 2]
    assert len({answers[0.0, 1], answers[1.0, 1], answers[1.0, 2]}) == 3


def test_sampled_requests_answer_as_defined() -> None:
    world = World()
    node = world.add("high", depth=2)
    specs = [make_spec(f"r{seed}", 70, temperature=1.0, seed=seed) for seed in range(4)]
    for spec in specs:
        world.assign(node, spec)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)


def test_models_of_other_weights_differ_in_answer_and_fingerprint() -> None:
    one, other = FakeModel(seed=1), FakeModel(seed=2)
    assert one.kv.fingerprint != other.kv.fingerprint
    assert reference_tokens((1, 2), GREEDY, one) != reference_tokens((1, 2), GREEDY, other)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8))
def test_both_mixers_agree(values: list[int]) -> None:
    assert mix_array(np.array(values, dtype=np.uint64)).tolist() == [mix(value) for value in values]


def test_ten_thousand_tokens_of_prefill_are_quick() -> None:
    """About 3 ms on a quiet machine; the bound leaves room for a busy one."""
    engine = FakeEngine(total_blocks=640)
    prefilled(engine, 10_000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        prefilled(engine, 10_000)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_a_step_takes_the_profiles_seconds_and_sleep_lets_them_pass() -> None:
    slept: list[float] = []
    profile = Profile(0.5, 0.01, 0.0, 0.0, 0.0, kv_bytes_per_token=16)
    engine = FakeEngine(total_blocks=16, profile=profile, sleep=slept.append)
    prefilled(engine, 101)
    assert slept == [pytest.approx(0.5 + 100 * 0.01)]


def test_the_shape_of_a_step() -> None:
    builder = StepBuilder(1, block_tokens=16, token_budget=100, max_rows=4, previous=None)
    decode, prefill = (Sequence(make_spec("r", length), (), 0, max_tokens=1000) for length in (20, 30))
    decode.blocks, prefill.blocks = [BlockId(0), BlockId(1)], [BlockId(2), BlockId(3)]
    decode.rewind(19)
    builder.add(decode, 1)
    builder.add(prefill, 10)
    step = builder.build()
    assert step is not None
    shape = shape_of(step.plan)
    assert (shape.prefill_tokens, shape.prefill_context, shape.decodes, shape.decode_context) == (10, 55, 1, 20)


def test_two_plans_at_most_and_none_out_of_nothing() -> None:
    engine = FakeEngine(total_blocks=16)
    sequence = prefilled(engine, 40)
    with pytest.raises(EngineError, match="nothing was launched"):
        engine.collect()
    for _ in range(2):
        engine.launch(plan(engine, sequence, 1))
        sequence.rewind(39)
    with pytest.raises(EngineError, match="outstanding"):
        engine.launch(plan(engine, sequence, 1))


def test_a_step_that_builds_on_a_failed_one_fails() -> None:
    engine = FakeEngine(total_blocks=16, fault=lambda plan: "planned" if plan.samples and plan.step == 1 else None)
    sequence = Sequence(make_spec("r", 20), (), 0, max_tokens=1000)
    sequence.blocks = [BlockId(0), BlockId(1)]
    first = StepBuilder(1, block_tokens=16, token_budget=100, max_rows=4, previous=None)
    first.add(sequence, 20)
    one = first.build()
    second = StepBuilder(2, block_tokens=16, token_budget=100, max_rows=4, previous=one)
    second.add(sequence, 1)
    two = second.build()
    assert one is not None
    assert two is not None
    engine.launch(one.plan)
    engine.launch(two.plan)
    with pytest.raises(EngineError, match="planned"):
        engine.collect()
    with pytest.raises(EngineError, match="a step that failed"):
        engine.collect()
