"""Engines for the contract tests, and sequences driven on one of them by hand, without a core."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from shared.types import BlockId, RequestId, RequestSpec, SamplingParams
from tests.support.tiny_models import save_tiny
from workers.batching import PlannedStep, StepBuilder
from workers.engine import Engine, Int32, StepResult
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


class Driver:
    """Sequences on one engine, without a core: blocks are given by hand."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.steps = 0
        self.previous: PlannedStep | None = None

    def sequence(
        self, length: int, first_block: int = 0, *, scattered: bool = False, salt: int = 1, choice: int = 0, **sampling: Any
    ) -> Sequence:
        """A prompt of `length` tokens with room for 32 more; greedy unless `sampling` says otherwise."""
        prompt = tuple(1 + (salt * at * at + 3 * at) % 97 for at in range(length))
        spec = RequestSpec(
            RequestId(f"r{salt}"), "m", prompt, SamplingParams(32, **{"temperature": 0.0, "ignore_eos": True, **sampling}), 0
        )
        sequence = Sequence(spec, (), arrival=0, max_tokens=self.engine.max_model_tokens, choice=choice)
        count = -(-(length + 32) // self.engine.block_tokens)
        blocks = [BlockId(first_block + at) for at in range(count)]
        sequence.blocks = blocks[::2] + blocks[1::2][::-1] if scattered else blocks
        return sequence

    def launch(self, chunks: list[tuple[Sequence, int]], allowed: Int32 | None = None) -> PlannedStep:
        """`allowed` is the grammar's mask of every sampled row."""
        self.steps += 1
        builder = StepBuilder(self.steps, block_tokens=self.engine.block_tokens, token_budget=4096, max_rows=64, previous=self.previous)
        for sequence, count in chunks:
            builder.add(sequence, count)
        step = builder.build()
        assert step is not None
        if allowed is not None:
            samples = tuple(sample._replace(allowed=allowed) for sample in step.plan.samples)
            step = replace(step, plan=replace(step.plan, samples=samples))
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

    def run(self, chunks: list[tuple[Sequence, int]], allowed: Int32 | None = None) -> StepResult:
        return self.collect(self.launch(chunks, allowed))

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
