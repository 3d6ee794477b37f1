"""A worker that does not know the pool's secret gets no KV: its request is answered all the same, by computing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from gateway.settings import GatewaySettings
from scheduler.settings import SchedulerSettings
from shared.clock import SystemClock
from shared.redis_fabric import RedisFabric
from tests.support.gateway_server import served
from tests.support.one_process import scheduling, working
from tests.support.waiting import eventually
from workers.loopback_transport import LoopbackHub
from workers.metrics import WorkerMetrics
from workers.tickets import Tickets

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
QUESTION = "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want. " * 8
CUT = 128


def tickets(secret: str) -> Tickets:
    return Tickets.of_pool("default", secret, "")


async def test_a_pull_without_the_pools_secret_is_refused_and_recomputed(valkey_url: str) -> None:
    hub, fabric = LoopbackHub(immediate=True), await RedisFabric.connect(valkey_url)
    policy = SchedulerSettings(policy="fixed_cut", cut_tokens=CUT)
    async with scheduling(valkey_url, policy) as scheduler, served(GatewaySettings(valkey_url, WEIGHTS, "demo"), fabric) as gateway:

        async def both_known() -> bool:
            return "1 own, 1 assist" in repr(scheduler.core)

        async def complete() -> tuple[str, list[Any]]:
            body = {"model": "demo", "prompt": QUESTION, "max_tokens": 6, "ignore_eos": True, "seed": 1}
            answer = (await gateway.http.post("/v1/completions", json=body)).raise_for_status().json()
            return answer["choices"][0]["text"], await told(gateway.http, answer["id"])

        async with working(valkey_url, WEIGHTS, "low", hub, slowdown=4.0, tickets=tickets("of the pool")) as low:
            counted = WorkerMetrics(low.core, SystemClock())
            low.watches.append(counted.watch)
            async with working(valkey_url, WEIGHTS, "stranger", hub, tickets=tickets("of somebody else")):
                await eventually(both_known, 30)
                text, lines = await complete()
                refused = [line["data"]["reason"] for line in lines if line["what"] == "pull_refused"]
                assert len(refused) == 1
                assert "no valid ticket" in refused[0]
                assert [line["data"]["good_tokens"] for line in lines if line["what"] == "pulled"] == [0]
                assert counted.registry.get_sample_value("headstart:kv_pulls_refused_total") == 1
            async with working(valkey_url, WEIGHTS, "high", hub, tickets=tickets("of the pool")):
                await eventually(both_known, 30)
                again, lines = await complete()
                assert [line["data"]["good_tokens"] for line in lines if line["what"] == "pulled"] == [CUT]
                assert again == text
    await fabric.disconnect()


async def told(http: httpx2.AsyncClient, request_id: str) -> list[Any]:
    """The story is written beside the answer, and may come a moment later."""

    async def lines() -> list[Any]:
        page = (await http.get(f"/v1/requests/{request_id}/explain")).json()
        found: list[Any] = page["timeline"]
        return found if any(line["what"] == "pulled" for line in found) else []

    return await eventually(lines, 20)
