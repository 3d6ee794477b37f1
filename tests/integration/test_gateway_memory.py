"""A small message server fills up: new work is refused with 503, what was accepted is answered whole, and room comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from gateway.settings import GatewaySettings
from shared.redis_fabric import RedisFabric
from shared.server import EmbeddedServer
from shared.types import RequestSpec
from tests.support.fake_owner import End, FakeOwner, Hold, Say, Step
from tests.support.gateway_server import served, until

MAXMEMORY = 4 << 20
BODY: dict[str, Any] = {"model": "org/tiny", "prompt": "hi", "max_tokens": 400}


@pytest.fixture
def small_server() -> Iterator[str]:
    with EmbeddedServer(maxmemory_bytes=MAXMEMORY) as server:
        yield server.url


async def test_it_refuses_early_and_finishes_what_it_took(tiny_model: Path, small_server: str) -> None:
    fabric, gate = await RedisFabric.connect(small_server), asyncio.Event()

    def script(spec: RequestSpec) -> tuple[Step, ...]:
        return Say("early "), Hold(gate), Say("late"), End()

    settings = GatewaySettings(small_server, tiny_model, "org/tiny")
    async with served(settings, fabric) as running, FakeOwner(fabric, script).working():
        open_posts, refused = await post_until_refused(running.http)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_memory")
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        with Redis.from_url(small_server) as client:
            assert client.info("memory")["used_memory"] < MAXMEMORY, "refused before the server was full"
            fill(client)
            full = await running.http.post("/v1/completions", json={**BODY, "max_tokens": 1})
            assert (full.status_code, full.json()["error"]["code"]) == (503, "no_memory")
            gate.set()
            answers = [answer.json() for answer in await asyncio.gather(*open_posts)]
            assert {answer["choices"][0]["text"] for answer in answers} == {"early late"}
            client.delete("ballast")
        await until(lambda: not open_posts or all(post.done() for post in open_posts))
        again = await running.http.post("/v1/completions", json=BODY)
        assert again.status_code == 200, "its places and bytes are free again"
        assert await fabric.connection.command("GET", fabric.keys.reserved) in (None, b"0")
    await fabric.disconnect()


async def post_until_refused(http: httpx2.AsyncClient) -> tuple[list[asyncio.Task[httpx2.Response]], httpx2.Response]:
    """One after the other, as far as the server lets them in; those that were accepted wait for their end."""
    waiting: list[asyncio.Task[httpx2.Response]] = []
    for _ in range(200):
        post = asyncio.create_task(http.post("/v1/completions", json=BODY, timeout=60))
        accepted_before = (await http.get("/load")).json()["models"]["org/tiny"]["live"]

        async def taken(post: asyncio.Task[httpx2.Response] = post, before: int = accepted_before) -> bool:
            return post.done() or (await http.get("/load")).json()["models"]["org/tiny"]["live"] > before

        while not await taken():
            await asyncio.wait([post], timeout=0.005)
        if post.done():
            return waiting, post.result()
        waiting.append(post)
    raise AssertionError("200 requests were accepted by a server of 4 MiB")


def fill(client: Redis) -> None:
    """With what is not ours, to the brim."""
    try:
        while True:
            client.append("ballast", b"x" * 65536)
    except OutOfMemoryError:
        return
