"""A request that every worker dies of: given up, kept, seen by operators, replayed where nobody dies of it any more, or dropped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cli.dead_letters import drop_letters, replay_letters, show_letters
from cli.system import System, SystemPlan, WorkerPlan
from scheduler.settings import SchedulerSettings
from shared.clock import SystemClock
from shared.errors import BadRequest
from shared.messages import LogEnd
from shared.redis_dead_letters import DeadLetters
from shared.types import Phase, RequestId, SamplingParams
from tests.support.key_check import looked_into, misplaced_keys
from tests.support.pool import Pool, save_word_tokenizer
from tests.support.tiny_models import CONTEXT, VOCABULARY, prompt_of, save_tiny
from tests.support.waiting import eventually
from workers.fake_engine import FakeModel, reference_tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SLOW = WorkerPlan("one", ("--engine", "fake", "--kv-mib", "1", "--slowdown", "20"))
PROMPT = prompt_of(40)
SAMPLING = SamplingParams(60, temperature=0.0, ignore_eos=True)


async def test_it_is_kept_replayed_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_word_tokenizer(save_tiny("llama", tmp_path), VOCABULARY)
    plan = SystemPlan(tmp_path, "tiny", (SLOW,), ports=(), schedulers=0, echo=False)
    async with Pool.running(System(plan)) as pool, pool.scheduled(SchedulerSettings(policy="high-only", max_crashes=1, liveness_s=1.0)):
        letters = DeadLetters(pool.fabric, SystemClock())
        lost = await pool.submit(PROMPT, SAMPLING)
        await pool.streamed(lost, 2)
        pool.signal("one", signal.SIGKILL)
        end = await eventually(lambda: ended(pool, lost), 60.0)
        assert end is not None
        assert (end.phase, end.code) == (Phase.FAILED, "too_many_crashes")

        (letter,) = await eventually(letters.all, 30.0)
        assert (letter.request_id, letter.submission.num_prompt) == (lost, len(PROMPT))
        assert (await pool.fabric.pool_status()).dead_letters == await letters.count() == 1
        with looked_into(pool.system.redis_url) as server:
            assert server.client.ttl(pool.fabric.keys.log(lost).head) > 3600, "its prompt is kept as long as its letter"
        assert lost in await told(pool, "list", capsys)

        await pool.system.add_worker(WorkerPlan("two", SLOW.options[:-2]))
        arrow = await told(pool, "replay", capsys, lost)
        anew = RequestId(arrow.split()[-1])
        answer = await pool.answer(anew)
        assert answer.token_ids == reference_tokens(PROMPT, SAMPLING, FakeModel(vocab_size=VOCABULARY, max_model_tokens=CONTEXT))
        assert "no dead letters" in await told(pool, "list", capsys)
        with pytest.raises(BadRequest, match="dead-letters list"):
            await letters.find(lost)


async def test_one_whose_prompt_is_gone_can_only_be_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_word_tokenizer(save_tiny("llama", tmp_path), VOCABULARY)
    async with Pool.running(System(SystemPlan(tmp_path, "tiny", (), ports=(), schedulers=0, echo=False))) as pool:
        request_id = await pool.submit(PROMPT, SAMPLING)
        await pool.fabric.close(request_id, 1, Phase.FAILED, dead_letter=True)
        letters = DeadLetters(pool.fabric, SystemClock())
        (letter,) = await letters.all()
        await pool.fabric.discard_log(request_id)
        with pytest.raises(BadRequest, match="drop its dead letter"):
            await letters.replay(letter)
        assert "dropped" in await told(pool, "drop", capsys)
        assert not await letters.all()
        with looked_into(pool.system.redis_url) as server:
            assert not misplaced_keys(server.client)


async def ended(pool: Pool, request_id: RequestId) -> LogEnd | None:
    loaded = (await pool.fabric.load_logs((request_id,)))[0]
    last = loaded.entries[-1] if loaded and loaded.entries else None
    return last if isinstance(last, LogEnd) else None


async def told(pool: Pool, command: str, capsys: pytest.CaptureFixture[str], *ids: str) -> str:
    """What `headstart dead-letters` prints."""
    url, name = pool.system.redis_url, pool.system.plan.pool
    match command:
        case "list":
            await show_letters(url, name)
        case "replay":
            await replay_letters(url, name, list(ids))
        case _:
            await drop_letters(url, name, list(ids))
    return capsys.readouterr().out
