"""What every engine promises, fake or real. To add one: a factory in `tests.support.engine_driver.ENGINES`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from shared.types import GRANULE_TOKENS, TokenSpan
from tests.support.engine_driver import ENGINES, Driver, EngineFactory, answer, whole
from workers.engine import Engine
from workers.sequence import Sequence


@pytest.fixture(params=[factory for _, factory in ENGINES], ids=[name for name, _ in ENGINES])
def make(request: pytest.FixtureRequest) -> EngineFactory:
    factory: EngineFactory = request.param
    return factory


@pytest.fixture
def engine(make: EngineFactory) -> Iterator[Engine]:
    with closing(make(16, 64)) as engine:
        yield engine


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 65])
def test_chunks_do_not_change_the_answer(engine: Engine, chunk: int) -> None:
    expected = whole(engine, 130, 8)
    driver = Driver(engine)
    assert driver.generate(driver.sequence(130), 8, chunk) == expected


def test_scattered_blocks_do_not_change_the_answer(engine: Engine) -> None:
    expected = whole(engine, 130, 8)
    driver = Driver(engine)
    assert driver.generate(driver.sequence(130, 20, scattered=True), 8, 50) == expected


@pytest.mark.parametrize("block_tokens", [1, 8, 32, 64])
def test_the_block_size_does_not_change_the_answer(make: EngineFactory, block_tokens: int) -> None:
    with closing(make(16, 64)) as engine, closing(make(block_tokens, 1024 // block_tokens)) as other:
        assert whole(other, 130, 8) == whole(engine, 130, 8)


def test_company_does_not_change_the_answer(engine: Engine) -> None:
    """Prefill chunks of one beside decodes of another, in one step."""
    expected = [whole(engine, 130, 8, salt=1), whole(engine, 40, 8, salt=2)]
    driver = Driver(engine)
    long, short = driver.sequence(130, 0, salt=1), driver.sequence(40, 20, salt=2)
    driver.run([(short, 40)])
    for _ in range(3):
        driver.run([(short, 1), (long, 40)])
    driver.run([(short, 1), (long, 10)])
    while long.num_generated < 8:
        driver.run([(sequence, 1) for sequence in (short, long) if sequence.num_generated < 8])
    assert [answer(long), answer(short)] == expected


def test_two_steps_deep_the_second_takes_its_token_from_the_first(engine: Engine) -> None:
    expected = whole(engine, 70, 6)
    driver = Driver(engine)
    sequence, beside = driver.sequence(70), driver.sequence(40, 20, salt=2)
    first = driver.launch([(beside, 40), (sequence, 70)])
    while sequence.num_generated < 6:
        second = driver.launch([(sequence, 1)])
        driver.collect(first)
        first = second
    driver.collect(first)
    assert answer(sequence)[:6] == expected


def test_a_step_that_samples_nothing_answers_nothing(engine: Engine) -> None:
    driver = Driver(engine)
    result = driver.run([(driver.sequence(70), 50)])
    assert (result.token_ids, result.logprobs) == ((), ())
    assert result.seconds >= 0.0


def test_logprobs_are_those_of_a_distribution(engine: Engine) -> None:
    driver = Driver(engine)
    result = driver.run([(driver.sequence(70), 70)])
    assert all(np.isfinite(logprob) and logprob <= 0.0 for logprob in result.logprobs)


@pytest.mark.parametrize("cut", [64, 128, 192])
@pytest.mark.parametrize("block_tokens", [16, 64])
def test_kv_that_was_moved_is_as_good_as_computed(make: EngineFactory, cut: int, block_tokens: int) -> None:
    """Computed to the cut on one engine, moved by granules into other blocks of another size, finished there."""
    with closing(make(16, 64)) as giver, closing(make(block_tokens, 1024 // block_tokens)) as owner:
        expected = whole(giver, 200, 8)
        low, high = Driver(giver), Driver(owner)
        given, taken = low.sequence(200, 30, scattered=True), high.sequence(200, 1)
        low.run([(given, cut)])
        move(giver, given, owner, taken, TokenSpan(0, cut))
        taken.rewind(cut)
        assert high.generate(taken, 8) == expected


def test_a_span_may_start_at_any_granule(make: EngineFactory) -> None:
    with closing(make(16, 64)) as giver, closing(make(16, 64)) as owner:
        low, high = Driver(giver), Driver(owner)
        given, taken = low.sequence(200), high.sequence(200, 7)
        low.run([(given, 192)])
        for start in (128, 0, 64):
            move(giver, given, owner, taken, TokenSpan(start, start + GRANULE_TOKENS))
        both = [bytes(gather(engine, sequence, TokenSpan(0, 192))) for engine, sequence in ((giver, given), (owner, taken))]
        assert both[0] == both[1]


def test_the_wire_layout_is_canonical(make: EngineFactory) -> None:
    """A span's bytes are its granules' bytes in order, whatever the blocks."""
    with closing(make(16, 64)) as engine:
        driver = Driver(engine)
        sequence = driver.sequence(200, scattered=True)
        driver.run([(sequence, 192)])
        parts = [bytes(gather(engine, sequence, TokenSpan(at, at + GRANULE_TOKENS))) for at in (0, 64, 128)]
        assert b"".join(parts) == bytes(gather(engine, sequence, TokenSpan(0, 192)))
        assert len(parts[0]) == GRANULE_TOKENS * engine.kv.bytes_per_token


def test_equal_weights_have_equal_fingerprints_whatever_the_blocks(make: EngineFactory) -> None:
    with closing(make(16, 64)) as one, closing(make(32, 16)) as other:
        assert one.kv.fingerprint == other.kv.fingerprint


def gather(engine: Engine, sequence: Sequence, span: TokenSpan) -> bytearray:
    out = bytearray(len(span) * engine.kv.bytes_per_token)
    engine.gather(tuple(sequence.blocks), span, memoryview(out))
    return out


def move(giver: Engine, given: Sequence, owner: Engine, taken: Sequence, span: TokenSpan) -> None:
    owner.scatter(tuple(taken.blocks), span, memoryview(gather(giver, given, span)))
