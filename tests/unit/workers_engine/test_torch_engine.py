"""The engine protocol's own promises: order, depth 2, errors, and steps of every mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.errors import ConfigError, EngineError
from shared.types import SamplingParams
from tests.support.tiny_models import prompt_of, reference
from workers.engine import Engine, StepPlan
from workers.step_layout import PADDED_DECODE_TOKENS
from workers.step_plans import Piece, write_plan
from workers.torch_engine import TorchEngine

PROMPT = list(prompt_of(37))


def run(engine: TorchEngine, *pieces: Piece) -> tuple[int, ...]:
    engine.launch(write_plan(0, pieces, engine.block_tokens))
    return engine.collect().token_ids


def prefill(blocks: tuple[int, ...] = (0, 1, 2, 3)) -> Piece:
    return Piece(PROMPT, 0, blocks, [len(PROMPT) - 1])


def test_it_is_an_engine(engine: TorchEngine) -> None:
    typed: Engine = engine
    assert typed.block_tokens == 16
    assert typed.total_blocks == (1 << 21) // (16 * typed.kv.bytes_per_token)
    assert repr(engine) == f"<TorchEngine llama float32 cpu [blocks {engine.total_blocks} x 16 | launched 0]>"


def test_depth_two_takes_tokens_from_the_plan_before(engine: TorchEngine, llama: Path) -> None:
    count = 8
    engine.launch(write_plan(0, [prefill()], 16))
    tokens: list[int] = []
    for step in range(1, count):
        engine.launch(write_plan(step, [Piece([-1], len(PROMPT) + step - 1, (0, 1, 2, 3), [0], inputs=[0])], 16))
        result = engine.collect()
        assert result.step == step - 1
        tokens += result.token_ids
    tokens += engine.collect().token_ids
    assert tokens == reference(llama).greedy(PROMPT, count)


def test_references_are_by_sample_not_by_row(engine: TorchEngine) -> None:
    other = Piece(list(prompt_of(9, salt=5)), 0, (4, 5), [8])
    engine.launch(write_plan(0, [other, prefill()], 16))
    engine.launch(write_plan(1, [Piece([-1], 37, (0, 1, 2, 3), [0], inputs=[1]), Piece([-1], 9, (4, 5), [0], inputs=[0])], 16))
    first, second = engine.collect(), engine.collect()
    assert second.token_ids[0] == run(engine, Piece([first.token_ids[1]], 37, (0, 1, 2, 3), [0]))[0]
    assert second.token_ids[1] == run(engine, Piece([first.token_ids[0]], 9, (4, 5), [0]))[0]


def test_no_third_plan(engine: TorchEngine) -> None:
    for step in (0, 1):
        engine.launch(write_plan(step, [prefill()], 16))
    with pytest.raises(EngineError, match="2 plans are already outstanding"):
        engine.launch(write_plan(2, [prefill()], 16))
    assert [engine.collect().step, engine.collect().step] == [0, 1]
    with pytest.raises(EngineError, match="no launched plan"):
        engine.collect()


def test_a_failed_step_says_so_and_its_successor_cannot_use_it(engine: TorchEngine) -> None:
    wanted = run(engine, prefill())
    broken = write_plan(7, [replace(prefill(), tokens=[10**6] * 37)], 16)
    engine.launch(broken)
    engine.launch(write_plan(8, [Piece([-1], 37, (0, 1, 2, 3), [0], inputs=[0])], 16))
    with pytest.raises(EngineError, match="step 7 failed: IndexError"):
        engine.collect()
    with pytest.raises(EngineError, match="step 8 takes tokens that the plan before it did not sample"):
        engine.collect()
    assert run(engine, prefill()) == wanted


def broken_plans() -> dict[str, StepPlan]:
    plan = write_plan(0, [prefill()], 16)
    return {
        "number of tokens": replace(plan, slots=plan.slots[:-1]),
        "starts and contexts": replace(plan, contexts=plan.contexts - 1),
        "beyond the model's 512 tokens": replace(plan, contexts=plan.contexts + 512),
        "a slot is outside": replace(plan, slots=plan.slots + (1 << 20)),
        "block tables are shorter": replace(plan, block_tables=plan.block_tables[:, :2]),
        "a block is outside": replace(plan, block_tables=plan.block_tables + (1 << 20)),
        "a sampled row": replace(plan, samples=(plan.samples[0]._replace(row=37),)),
    }


@pytest.mark.parametrize("message", sorted(broken_plans()))
def test_plans_that_do_not_fit_are_refused_before_the_device_sees_them(message: str, engine: TorchEngine) -> None:
    engine.launch(broken_plans()[message])
    with pytest.raises(EngineError, match=message):
        engine.collect()


def test_a_step_of_hundreds_of_sequences(engine: TorchEngine) -> None:
    """Every sequence of the batch gets what it gets alone, in either way of attending decodes."""
    count = 200
    lengths = [1 + (s * 7) % 14 for s in range(count)]
    prompts = [list(prompt_of(n, salt=s)) for s, n in enumerate(lengths)]
    pieces = [Piece(prompt, 0, (s,), [len(prompt) - 1]) for s, prompt in enumerate(prompts)]
    first = run(engine, *pieces)
    second = run(engine, *[Piece([token], lengths[s], (s,), [0]) for s, token in enumerate(first)])
    for s in range(0, count, 29):
        alone = run(engine, pieces[s])
        assert alone == (first[s],)
        assert run(engine, Piece([first[s]], lengths[s], (s,), [0])) == (second[s],)


@pytest.mark.parametrize("padded_tokens", [0, 130, 1 << 62])
def test_decodes_attended_together_or_apart(padded_tokens: int, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [list(prompt_of(n, salt=n)) for n in (3, 40, 90)]
    blocks = [(9, 3), (0, 5, 2, 7), (10, 11, 12, 13, 14, 15)]
    wanted = [run(engine, Piece(p, 0, b, [len(p) - 1])) for p, b in zip(prompts, blocks, strict=True)]
    monkeypatch.setitem(PADDED_DECODE_TOKENS, "cpu", padded_tokens)
    last = [Piece(p[-1:], len(p) - 1, b, [0]) for p, b in zip(prompts, blocks, strict=True)]
    assert run(engine, *last) == tuple(token for one in wanted for token in one)


def test_a_chunk_that_samples_nothing(engine: TorchEngine) -> None:
    assert run(engine, Piece(PROMPT[:20], 0, (0, 1))) == ()
    assert run(engine, Piece(PROMPT[20:], 20, (0, 1, 2), [16])) == run(engine, prefill((5, 6, 7)))


def test_sampled_tokens_do_not_depend_on_the_batch(engine: TorchEngine) -> None:
    params = SamplingParams(max_tokens=8, temperature=1.0, top_p=0.95, seed=11)
    alone = run(engine, replace(prefill(), params=params, index=3))
    crowd = [Piece(list(prompt_of(20, salt=s)), 0, (4 + 2 * s, 5 + 2 * s), [19]) for s in range(3)]
    assert run(engine, *crowd, replace(prefill(), params=params, index=3))[-1:] == alone


def test_sixteen_bits(llama: Path) -> None:
    engine = TorchEngine(llama, dtype="bfloat16", kv_bytes=1 << 20, max_model_tokens=100)
    assert engine.max_model_tokens == 100
    assert engine.kv.dtype == "float32"
    assert engine.total_blocks == (1 << 20) // (16 * engine.kv.bytes_per_token // 2)
    assert 0 <= run(engine, prefill())[0] < 128
    engine.close()


def test_read_only_plans(engine: TorchEngine) -> None:
    plan = write_plan(0, [prefill()], 16)
    for array in (plan.token_ids, plan.inputs, plan.positions, plan.slots, plan.starts, plan.contexts, plan.block_tables):
        array.setflags(write=False)
    engine.launch(plan)
    assert len(engine.collect().token_ids) == 1


def test_the_cache_commits_memory_only_as_it_is_written(llama: Path) -> None:
    """Sixteen gigabytes of cache on a machine that need not have them."""
    engine = TorchEngine(llama, kv_bytes=1 << 34)
    assert run(engine, prefill((engine.total_blocks - 1, 0, 5, 6))) == run(engine, prefill())
    engine.close()


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:99"])
def test_a_device_that_is_not_here(device: str, llama: Path) -> None:
    with pytest.raises(ConfigError, match="device"):
        TorchEngine(llama, device=device)


def test_seconds_and_logprobs(engine: TorchEngine, llama: Path) -> None:
    engine.launch(write_plan(3, [prefill()], 16))
    result = engine.collect()
    assert result.seconds > 0
    assert np.isfinite(result.logprobs).all()
    assert result.logprobs == pytest.approx(reference(llama).logprobs([*PROMPT, *result.token_ids], len(PROMPT)), abs=1e-4)
    assert torch.is_grad_enabled()
