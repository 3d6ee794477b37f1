"""What every engine promises, fake or real. To add one: a factory in `ENGINES`."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from shared.types import GRANULE_TOKENS, BlockId, RequestId, RequestSpec, SamplingParams, TokenSpan
from tests.support.tiny_models import save_tiny
from workers.batching import PlannedStep, StepBuilder
from workers.engine import Engine, StepResult
from workers.fake_engine import FakeEngine
from workers.sequence import Sequence
from workers.torch_engine import TorchEngine

EngineFactory = Callable[[int, int], Engine]
"""(block_tokens, total_blocks) -> an engine; each call gives one of the same weights, greedy and reproducible, with 100 tokens or more."""


@cache
def tiny_llama() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="tiny-llama-")
    atexit.register(folder.cleanup)
    return save_tiny("llama", Path(folder.name))


def torch_engine(block_tokens: int, total_blocks: int) -> Engine:
    bytes_per_token = 512
    return TorchEngine(tiny_llama(), block_tokens=block_tokens, kv_bytes=total_blocks * block_tokens * bytes_per_token)


ENGINES: list[tuple[str, EngineFactory]] = [
    ("fake", lambda block_tokens, total_blocks: FakeEngine(block_tokens=block_tokens, total_blocks=total_blocks)),
    ("torch", torch_engine),
]


@pytest.fixture(params=[factory for _, factory in ENGINES], ids=[name for name, _ in ENGINES])
def make(request: pytest.FixtureRequest) -> EngineFactory:
    factory: EngineFactory = request.param
    return factory


@pytest.fixture
def engine(make: EngineFactory) -> Iterator[Engine]:
    with closing(make(16, 64)) as engine:
        yield engine


class Driver:
    """Sequences on one engine, without a core: blocks are given by hand."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.steps = 0
        self.previous: PlannedStep | None = None

    def sequence(self, length: int, first_block: int = 0, *, scattered: bool = False, salt: int = 1) -> Sequence:
        """A prompt of `length` tokens with room for 32 more."""
        prompt = tuple(1 + (salt * at * at + 3 * at) % 97 for at in range(length))
        spec = RequestSpec(RequestId(f"r{salt}"), "m", prompt, SamplingParams(32, temperature=0.0, ignore_eos=True), 0)
        sequence = Sequence(spec, (), arrival=0, max_tokens=self.engine.max_model_tokens)
        count = -(-(length + 32) // self.engine.block_tokens)
        blocks = [BlockId(first_block + at) for at in range(count)]
        sequence.blocks = blocks[::2] + blocks[1::2][::-1] if scattered else blocks
        return sequence

    def launch(self, chunks: list[tuple[Sequence, int]]) -> PlannedStep:
        self.steps += 1
        builder = StepBuilder(self.steps, block_tokens=self.engine.block_tokens, token_budget=4096, max_rows=64, previous=self.previous)
        for sequence, count in chunks:
            builder.add(sequence, count)
        step = builder.build()
        assert step is not None
        self.engine.launch(step.plan)
        self.previous = step
        return step

    def collect(self, step: PlannedStep) -> StepResult:
        result = self.engine.collect()
        assert result.step == step.plan.step
        assert len(result.token_ids) == len(result.logprobs) == len(step.plan.samples)
        for row in step.rows:
            row.sequence.computed(row.count)
            if row.sample >= 0:
                row.sequence.append(result.token_ids[row.sample])
        self.previous = None if self.previous is step else self.previous
        return result

    def run(self, chunks: list[tuple[Sequence, int]]) -> StepResult:
        return self.collect(self.launch(chunks))

    def generate(self, sequence: Sequence, count: int, chunk: int = 4096) -> list[int]:
        """Prefill in chunks, then decode up to `count` tokens."""
        while sequence.num_generated < count:
            self.run([(sequence, min(chunk, sequence.left))])
        return answer(sequence)


def answer(sequence: Sequence) -> list[int]:
    return [int(token) for token in sequence.ids(sequence.num_prompt, sequence.num_tokens)]


def whole(engine: Engine, length: int, count: int, salt: int = 1) -> list[int]:
    driver = Driver(engine)
    return driver.generate(driver.sequence(length, salt=salt), count)


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
