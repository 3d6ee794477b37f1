"""Marked secrets everywhere, everything at its most talkative: none of them is told."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from cli.system import System, SystemPlan, WorkerPlan
from gateway.api_keys import line_of, rule_of
from gateway.settings import GatewaySettings
from workers.process import WorkerProcessSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEMO = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
KEY, FILED, WRONG, PROMPT = "marked-key-in-environment", "marked-key-in-file", "marked-key-of-nobody", "marked words of a prompt"
WORKER = ("--engine", "fake", "--kv-mib", "8", "--staging-mib", "16")


async def test_no_secret_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    keys.write_text(line_of(rule_of(FILED, "filed")))
    workers = (WorkerPlan("high-1", WORKER), WorkerPlan("low-1", (*WORKER, "--slowdown", "8")))
    plan = SystemPlan(DEMO, "demo", workers, api_keys=(KEY,), api_keys_file=keys, log_level="debug")
    told = [repr(plan)]
    async with System(plan) as system:
        password = system.redis_url.split("@")[0].rsplit(":", 1)[1]
        secrets = [KEY, FILED, WRONG, PROMPT, password, system._pool_secret]
        assert all(len(secret) > 10 for secret in secrets)
        told += [repr(system), *map(command_line, (child.process.pid for child in system.children if child.process))]
        async with httpx2.AsyncClient(base_url=system.urls[0], timeout=60) as http:
            for key in (KEY, FILED):
                told += await used(http, key)
            refused = await http.post("/v1/completions", json={}, headers={"authorization": f"Bearer {WRONG}"})
            told += [refused.text, *[(await http.get(path)).text for path in ("/metrics", "/load", "/ready", "/version", "/openapi.json")]]
    captured = capfd.readouterr()
    assert "debug" in captured.err.lower(), "the logs were not read"
    for secret in secrets:
        assert secret not in captured.out + captured.err
        assert not [text[:200] for text in told if secret in text]


async def used(http: httpx2.AsyncClient, key: str) -> list[str]:
    """What is told of a request beside its answer."""
    headers = {"authorization": f"Bearer {key}", "idempotency-key": key}
    body = {"model": "demo", "prompt": PROMPT * 40, "max_tokens": 4, "user": "u"}
    made = (await http.post("/v1/completions", json=body, headers=headers)).raise_for_status().json()
    explained = await http.get(f"/v1/requests/{made['id']}/explain", headers=headers)
    bad = await http.post("/v1/completions", json={**body, "n": 0}, headers=headers)
    return [explained.raise_for_status().text, bad.text]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_settings_keep_theirs_to_themselves(tmp_path: Path) -> None:
    url = "redis://:marked-password@h"
    worker = WorkerProcessSettings(url, tmp_path, pool_secret="marked-secret-of-the-pool")
    gateway = GatewaySettings(url, tmp_path, "m", api_keys=(KEY,), key_rules=(rule_of(FILED),))
    assert "marked" not in repr(worker) + repr(gateway)
