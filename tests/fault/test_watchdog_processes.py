"""A worker whose engine hangs, or fails at every step, goes away by itself, and what it had is answered elsewhere: real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.system import System, SystemPlan, WorkerPlan
from scheduler.settings import SchedulerSettings
from shared.types import SamplingParams
from tests.support.pool import Pool, save_word_tokenizer
from tests.support.tiny_models import CONTEXT, VOCABULARY, prompt_of, save_tiny
from tests.support.waiting import eventually
from workers.fake_engine import FakeModel, reference_tokens
from workers.watchdog import HUNG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MODEL = FakeModel(vocab_size=VOCABULARY, max_model_tokens=CONTEXT)
SAMPLING = SamplingParams(12, temperature=0.0, ignore_eos=True)
PROMPTS = [prompt_of(40 + at) for at in range(4)]
FAKE = ("--engine", "fake", "--kv-mib", "1", "--step-limit-s", "1")


@pytest.mark.parametrize(
    ("name", "status", "cause", "says"),
    [("hangs", HUNG, "crash", "the engine has not come back"), ("fails", 2, "returned", "its engine failed again and again")],
)
async def test_a_worker_with_a_bad_engine_takes_itself_out(tmp_path: Path, name: str, status: int, cause: str, says: str) -> None:
    save_word_tokenizer(save_tiny("llama", tmp_path), VOCABULARY)
    bad, sound = WorkerPlan(name, FAKE, "tests.support.faulty_worker"), WorkerPlan("sound", (*FAKE, "--slowdown", "4"))
    plan = SystemPlan(tmp_path, "tiny", (bad, sound), ports=(), schedulers=0, echo=False)
    async with Pool.running(System(plan)) as pool, pool.scheduled(SchedulerSettings(policy="high-only", liveness_s=1.0)):
        requests = [await pool.submit(prompt, SAMPLING) for prompt in PROMPTS]
        answers = [await pool.answer(request) for request in requests]
        assert [answer.token_ids for answer in answers] == [reference_tokens(prompt, SAMPLING, MODEL) for prompt in PROMPTS]
        assert cause in {told["cause"] for answer in answers for told in answer.told("requeued")}

        child = pool.child(name)
        assert child.process is not None
        assert await child.process.wait() == status
        assert says in await child.last_words()
        await eventually(lambda: is_alone(pool, "sound"), 60.0)


async def is_alone(pool: Pool, name: str) -> bool:
    return {str(member.ref.worker) for member in await pool.fabric.members()} == {name}
