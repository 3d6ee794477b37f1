"""The profile of a device is what its steps show, never negative, and soon found."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from shared.profile import Profile, StepShape
from shared.types import BlockId, TokenSpan
from workers.engine import KVSpec, StepPlan, StepResult
from workers.profile_fit import fit_profile
from workers.profile_shapes import StepClass, class_of, works
from workers.profiler import FEWEST_STEPS, LIMIT_S, bounds_of, measure, profile_engine
from workers.torch_engine import TorchEngine

DEVICE = Profile(0.004, 2e-4, 3e-8, 5e-4, 1e-6, kv_bytes_per_token=256)


class ModelledEngine:
    """An engine whose steps take exactly what a profile says; it checks that nothing unwritten is attended to."""

    def __init__(
        self,
        *,
        block_tokens: int = 16,
        total_blocks: int = 2000,
        max_model_tokens: int = 4096,
        noise: float = 0.0,
        device: Profile = DEVICE,
    ) -> None:
        self.device, self.now = device, 0.0
        self.kv = KVSpec(1, 1, 32, "float32", 256, b"f")
        self.block_tokens, self.total_blocks, self.max_model_tokens = block_tokens, total_blocks, max_model_tokens
        self.eos_token_ids: frozenset[int] = frozenset()
        self.largest = 0
        self._written: set[int] = set()
        self._plans: list[StepPlan] = []
        self._noise = np.random.default_rng(0).normal(1.0, noise, 10_000).tolist()

    def launch(self, plan: StepPlan) -> None:
        self._plans.append(plan)

    def collect(self) -> StepResult:
        plan = self._plans.pop(0)
        self._written |= set(plan.slots.tolist())
        queries = np.diff(plan.starts)
        for context, table in zip(plan.contexts, plan.block_tables, strict=True):
            assert {
                int(table[at // self.block_tokens]) * self.block_tokens + at % self.block_tokens for at in range(context)
            } <= self._written
        chunk, decode = queries > 1, queries == 1
        pairs = sum(int(c * (c + 1) - (c - n) * (c - n + 1)) // 2 for c, n in zip(plan.contexts[chunk], queries[chunk], strict=True))
        shape = StepShape(int(queries[chunk].sum()), pairs, int(decode.sum()), int(plan.contexts[decode].sum()))
        self.largest = max(self.largest, shape.prefill_tokens + shape.decodes)
        tokens = (0,) * len(plan.samples)
        seconds = self.device.step_seconds(shape) * self._noise.pop()
        self.now += seconds
        return StepResult(plan.step, tokens, (0.0,) * len(tokens), seconds)

    def gather(self, blocks: tuple[BlockId, ...], span: TokenSpan, out: memoryview) -> None:
        assert len(out) == len(span) * self.kv.bytes_per_token

    def scatter(self, blocks: tuple[BlockId, ...], span: TokenSpan, data: memoryview) -> None:
        self._written |= {block * self.block_tokens + at for block in blocks for at in range(self.block_tokens)}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("block_tokens", "total_blocks", "max_model_tokens", "budget"),
    [(16, 2000, 4096, 512), (64, 100, 4096, 200), (16, 40, 4096, 512), (16, 2000, 100, 64), (1, 300, 4096, 512), (16, 2000, 40, 512)],
)
def test_a_devices_profile_is_found(block_tokens: int, total_blocks: int, max_model_tokens: int, budget: int) -> None:
    engine = ModelledEngine(block_tokens=block_tokens, total_blocks=total_blocks, max_model_tokens=max_model_tokens)
    found = profile_engine(engine, token_budget=budget, max_sequences=16, seconds=0.2)
    assert astuple(found)[:6] == pytest.approx(astuple(DEVICE)[:6], rel=1e-3)
    assert engine.largest <= budget


@pytest.mark.parametrize(
    "device",
    [
        Profile(0.1, 0.002, 1e-6, 0.01, 1e-5, 256),
        Profile(0.5, 0.05, 1e-5, 0.1, 1e-4, 256),
        Profile(2.0, 0.5, 1e-4, 0.2, 2e-4, 256),
        Profile(1.0, 0.001, 3e-3, 0.2, 2e-2, 256),
        Profile(3.5, 0.01, 1e-4, 0.1, 1e-3, 256),
    ],
    ids=["slow", "slower", "a_large_step_takes_minutes", "its_attention_does", "every_step_does_alike"],
)
def test_a_slow_device_is_measured_within_the_limit_and_its_profile_is_found_all_the_same(device: Profile) -> None:
    engine = ModelledEngine(device=device)
    samples = measure(engine, 512, 32, 60.0, clock=lambda: engine.now)
    assert engine.now <= LIMIT_S
    assert {class_of(shape) for shape, _ in samples.fitted} == set(StepClass)
    found = samples.profile(256)
    for shape in (StepShape(512, 512 * 513 // 2, 0, 0), StepShape(0, 0, 32, 32 * 1000), StepShape(256, 200_000, 16, 8000)):
        assert found.step_seconds(shape) == pytest.approx(device.step_seconds(shape), rel=0.01)


def test_a_hopeless_device_ends_with_the_fewest_steps() -> None:
    engine = ModelledEngine(device=Profile(40.0, 1.0, 1e-3, 1.0, 1e-3, 256))
    samples = measure(engine, 512, 32, 60.0, clock=lambda: engine.now)
    assert len(samples.fitted) + len(samples.held_out) == FEWEST_STEPS
    assert engine.largest <= 64


def test_a_fast_device_sees_every_step_that_there_is() -> None:
    engine = ModelledEngine()
    samples = measure(engine, 512, 32, 60.0, clock=lambda: engine.now)
    assert len(samples.fitted) + len(samples.held_out) == len(works(bounds_of(engine, 512, 32)))
    assert samples.rounds > 1


def test_noise_moves_the_figures_that_matter_little() -> None:
    found = profile_engine(ModelledEngine(noise=0.05), seconds=0.2)
    assert found.prefill_tokens_per_s() == pytest.approx(DEVICE.prefill_tokens_per_s(), rel=0.15)
    shape = StepShape(128, 10_000, 16, 16 * 300)
    assert found.step_seconds(shape) == pytest.approx(DEVICE.step_seconds(shape), rel=0.15)


def test_nothing_is_ever_negative() -> None:
    shapes = [StepShape(n, n * n // 2, d, d * 100) for n in (0, 64, 512) for d in (0, 8) if n + d]
    falling = [(shape, 1.0 / (1 + i)) for i, shape in enumerate(shapes)]
    assert min(astuple(fit_profile(falling, 1))[:5]) >= 0


def test_the_real_engine(engine: TorchEngine) -> None:
    samples = measure(engine, token_budget=64, max_sequences=4, seconds=0.0)
    assert all(seconds > 0 for _, seconds in samples.fitted + samples.held_out)
    assert samples.profile(engine.kv.bytes_per_token).prefill_tokens_per_s() > 0
