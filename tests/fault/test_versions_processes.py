"""A pool in the middle of a rolling upgrade: a worker one version newer gives and takes, one that is two newer is sent away."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.system import System, SystemPlan, WorkerPlan
from scheduler.settings import SchedulerSettings
from shared.errors import ConfigError
from shared.types import GRANULE_TOKENS, SamplingParams
from tests.support.pool import Pool, save_word_tokenizer
from tests.support.tiny_models import CONTEXT, VOCABULARY, prompt_of, save_tiny
from tests.support.waiting import eventually
from workers.fake_engine import FakeModel, reference_tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CUT = 2 * GRANULE_TOKENS
PROMPT = prompt_of(CUT + 9)
SAMPLING = SamplingParams(6, temperature=0.0, ignore_eos=True)
RIGHT = reference_tokens(PROMPT, SAMPLING, FakeModel(vocab_size=VOCABULARY, max_model_tokens=CONTEXT))
FAKE = ("--engine", "fake", "--kv-mib", "1")
OTHER = "tests.support.other_release"


@pytest.mark.parametrize("newer", ["low", "high"])
async def test_a_worker_one_version_newer_works_and_one_two_newer_is_refused(tmp_path: Path, newer: str) -> None:
    """The newer one sends KV to its elder, or pulls it from there."""
    save_word_tokenizer(save_tiny("llama", tmp_path), VOCABULARY)
    low = WorkerPlan("elder", (*FAKE, "--slowdown", "4", "--role", "low"))
    high = WorkerPlan("release-1", (*FAKE, "--role", "high"), OTHER)
    if newer == "low":
        low, high = WorkerPlan("release-1", low.options, OTHER), WorkerPlan("elder", high.options)
    plan = SystemPlan(tmp_path, "tiny", (low, high), ports=(), schedulers=0, echo=False)
    async with Pool.running(System(plan)) as pool, pool.scheduled(SchedulerSettings(policy="fixed-cut", cut_tokens=CUT)):
        answer = await pool.answer(await pool.submit(PROMPT, SAMPLING))
        assert answer.token_ids == RIGHT
        (pulled,) = answer.told("pulled")
        assert (pulled["good_tokens"], pulled["error"]) == (CUT, "")
        assert pool.fabric.undecodable == 0

        await eventually(pool.fabric.load, 30.0)
        with pytest.raises(ConfigError, match=r"led by a scheduler of version 1 .* speaks 3 .* upgrade the other one first"):
            await pool.system.add_worker(WorkerPlan("release-2", FAKE, OTHER))
        assert {str(info.ref.worker) for info in await pool.fabric.members()} == {"elder", "release-1"}
