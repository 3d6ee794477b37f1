"""Twelve requests in a KV cache for four of them: they preempt each other, head starts come in between, and no token changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from transformers import LlamaConfig

from cli.system import System, SystemPlan, WorkerPlan
from scheduler.settings import SchedulerSettings
from shared.types import GRANULE_TOKENS, SamplingParams
from tests.support.pool import Answer, Pool, save_word_tokenizer
from tests.support.profiles import given_profile
from tests.support.tiny_models import LLAMA_LIKE, VOCABULARY, Reference, prompt_of, reference, save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("preemption")]

REQUESTS = 12
NEW_TOKENS = 144
"""More than twice what a worker expects of an answer before it has seen any: it takes on more than it can finish."""
AT_ONCE = 8
TOLERANCE = 1e-4
LENGTHS = tuple(GRANULE_TOKENS + 1 + at * 7 % 40 for at in range(REQUESTS))
"""65 to 104 tokens, every one with exactly one granule to be given. With their answers some 2700 tokens, where the owner holds 1024."""


def plan_of(folder: Path) -> SystemPlan:
    """The low-end gives many head starts at once: the owner never waits for work."""
    common = ("--threads", "1", *given_profile(folder))
    low = WorkerPlan(
        "low", ("--slowdown", "2", "--role", "low", "--block-tokens", "32", "--max-assists", str(AT_ONCE), "--kv-mib", "8", *common)
    )
    high = WorkerPlan("high", ("--block-tokens", "16", "--token-budget", "512", "--kv-mib", "1", *common))
    return SystemPlan(folder, "tiny", (low, high), ports=(), schedulers=0)


async def test_preempted_requests_answer_as_if_they_were_alone(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path, config=LlamaConfig(**{**LLAMA_LIKE, "num_key_value_heads": 4}))
    save_word_tokenizer(folder, VOCABULARY)
    prompts = [prompt_of(length, salt=at) for at, length in enumerate(LENGTHS)]
    # A scheduler that expects short answers: only so do more requests run than there are blocks for.
    settings = SchedulerSettings(
        policy="fixed-cut", cut_tokens=GRANULE_TOKENS, max_assists=AT_ONCE, default_output_tokens=1, output_quantile=0.01
    )
    async with Pool.running(System(plan_of(folder))) as pool, pool.scheduled(settings):
        requests = [await pool.submit(prompt, SamplingParams(NEW_TOKENS, temperature=0.0, ignore_eos=True)) for prompt in prompts]
        answers = await asyncio.gather(*(pool.answer(request_id, 300.0) for request_id in requests))
    truth = reference(folder)
    for prompt, answer in zip(prompts, answers, strict=True):
        check(truth, prompt, answer)
    assert sum(len(answer.told("preempted")) for answer in answers) >= 3
    assert sum(line["good_tokens"] == GRANULE_TOKENS for answer in answers for line in answer.told("pulled")) >= 3


def check(truth: Reference, prompt: tuple[int, ...], answer: Answer) -> None:
    assert list(answer.token_ids) == truth.greedy(prompt, NEW_TOKENS)
    expected = truth.logprobs([*prompt, *answer.token_ids], len(prompt))
    assert max(abs(ours - theirs) for ours, theirs in zip(answer.logprobs, expected, strict=True)) < TOLERANCE
