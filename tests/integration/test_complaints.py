"""`headstart up`, where it cannot: what the child that died had to say reaches the user, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from cli.system import System, SystemPlan, WorkerPlan
from shared.errors import ConfigError
from tests.support.tokenizer_dirs import byte_backend, save

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo_model" / "weights"
FAKE = WorkerPlan("fake-1", ("--engine", "fake"))


async def ended(*arguments: str) -> tuple[int | None, str]:
    """Exit status and stderr of a `headstart` command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", *arguments),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    return process.returncode, said.decode()


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.xdist_group("transformers")
@pytest.mark.parametrize(
    ("command", "who"),
    [(("up", "--low", "0", "--high", "1", "--port", "0"), "high-1: "), (("worker", "--redis-url", "redis://127.0.0.1:1"), "")],
    ids=["up", "worker"],
)
async def test_a_refused_model_is_told_in_one_line_by_the_command(tmp_path: Path, command: tuple[str, ...], who: str) -> None:
    from tests.support.tiny_models import save_tiny

    folder = save_tiny("falcon", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    status, said = await ended(*command, "--model", str(folder))
    assert status == 2, said
    (line,) = [line for line in said.splitlines() if not line.startswith("{")]
    assert line.startswith(f"headstart: {who}--model {folder}: model type 'falcon' is refused"), said
    assert "choose another model" in line


async def test_the_complaint_of_a_worker_is_the_error_of_the_system(tmp_path: Path) -> None:
    before = descendants()
    shutil.copy(DEMO / "config.json", tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"fake-1: --model .* no tokenizer.json there; save the model with its fast tokenizer"):
        await System(SystemPlan(tmp_path, "demo", (FAKE,), ports=(), schedulers=1, echo=False)).__aenter__()
    assert descendants() == before, "whoever had started is gone"


async def test_the_complaint_of_a_gateway_and_its_keys(tmp_path: Path) -> None:
    """Without a model's length the gateway cannot start; with all it needs, it asks for the key it was given."""
    folder = save(tmp_path, byte_backend(), {})
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"gateway-1: .* names no max_position_embeddings: give --max-model-tokens"):
        await System(SystemPlan(folder, "tiny", (), schedulers=0, echo=False)).__aenter__()

    async with System(SystemPlan(DEMO, "demo", (), schedulers=0, api_keys=("one", "two"), echo=False)) as system:
        async with httpx2.AsyncClient(base_url=system.urls[0]) as client:
            answers = [await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}) for key in ("one", "two", "three")]
    assert [answer.status_code for answer in answers] == [200, 200, 401]
