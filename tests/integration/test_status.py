"""`headstart status` says what is so: a worker without a model, requests that wait and one that runs."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cli.status import show_status
from cli.system import System, SystemPlan, WorkerPlan
from scheduler.settings import SchedulerSettings
from shared.types import SamplingParams
from tests.support.pool import Pool
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DEMO = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
LONG = SamplingParams(max_tokens=1500, temperature=0.0, ignore_eos=True)
HELD = ("--max-sequences", "4", "--token-budget", "96", "--block-tokens", "32", "--slowdown", "50", "--drain-s", "0")


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Pool]:
    """One slow worker that computes nothing, and nobody who places."""
    worker = WorkerPlan("fake-1", ("--engine", "fake", "--kv-mib", "1", *HELD))
    async with Pool.running(System(SystemPlan(DEMO, "demo", (worker,), pool="status", ports=(), schedulers=0))) as pool:
        yield pool


class Status:
    """What the command prints, for programs and for people."""

    def __init__(self, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
        self._url, self._capsys = pool.system.redis_url, capsys

    async def json(self) -> dict[str, Any]:
        await show_status(self._url, "status", as_json=True)
        read: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return read

    async def worker(self) -> dict[str, Any]:
        (worker,) = (await self.json())["workers"]
        return dict(worker)

    async def text(self) -> list[str]:
        await show_status(self._url, "status", as_json=False)
        return self._capsys.readouterr().out.splitlines()


async def test_who_is_there_and_what_waits(pool: Pool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status = Status(pool, capsys)
    (member,) = await pool.fabric.members()

    async def ready() -> bool:
        return bool((await status.worker())["state"] == "ready")

    await eventually(ready, 30)
    submitted = [await pool.submit(range(1, 101), LONG) for _ in range(2)]
    told = await status.json()
    assert told["pool"] == "status"
    assert told["requests"] == {"queued": 2, "running": 0, "moving": 0}
    assert told["workers"] == [
        {
            "worker": "fake-1",
            "incarnation": member.ref.incarnation,
            "model": "weights",
            "device": "cpu",
            "host": member.host,
            "prefill_tokens_per_s": round(member.profile.prefill_tokens_per_s()),
            "state": "ready",
            "owned": 0,
            "head_starts": 0,
            "credit": {"tokens": 96, "blocks": member.total_blocks, "sequences": 4},
            "blocks": member.total_blocks,
        }
    ]
    text = await status.text()
    assert text[0] == "pool status: 2 queued, 0 running, 0 moving"
    blocks = f"{member.total_blocks}/{member.total_blocks}"
    assert cells(text) == ["fake-1", "cpu", "ready", str(told["workers"][0]["prefill_tokens_per_s"]), "0", "0", blocks, "96"]
    assert max(map(len, text)) <= 80

    async with pool.scheduled(SchedulerSettings()):

        async def owned() -> int:
            return int((await status.worker())["owned"])

        await eventually(owned, 30)
        busy = await status.json()
        assert busy["requests"]["running"] >= 1
        assert sum(busy["requests"].values()) == len(submitted)
        text = await status.text()
        assert re.match(r"pool status: \d queued, [12] running, 0 moving", text[0])


def cells(text: list[str]) -> list[str]:
    """Of the only worker's row."""
    (row,) = (line for line in text if "fake-1" in line)
    return row.split()
