"""A gateway on a loopback port inside the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn
from openai import AsyncOpenAI

from gateway.app import create_app
from gateway.server import Server, listen
from gateway.service import Gateway, GatewayFabric
from gateway.settings import GatewaySettings
from gateway.tokenizer import Tokenizer
from tests.support.waiting import eventually


@dataclass(frozen=True, slots=True)
class Served:
    """A running gateway, the official client (it retries nothing and checks types), and a plain one."""

    gateway: Gateway
    openai: AsyncOpenAI
    lax: AsyncOpenAI
    """Without the type checks, for what OpenAI's own servers send against their types."""
    http: httpx2.AsyncClient
    url: str


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """`eventually` for a condition that needs no await."""

    async def look() -> bool:
        return bool(condition())

    await eventually(look, timeout_s)


@asynccontextmanager
async def served(settings: GatewaySettings, fabric: GatewayFabric, *, api_key: str = "none") -> AsyncIterator[Served]:
    tokenizer = Tokenizer.load(settings.model)
    app = create_app(settings, fabric, tokenizer)
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await until(lambda: server.started or serving.done())
        options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": api_key, "max_retries": 0, "timeout": 30}
        async with (
            AsyncOpenAI(**options, _strict_response_validation=True) as openai,
            AsyncOpenAI(**options) as lax,
            httpx2.AsyncClient(base_url=url, timeout=30) as http,
        ):
            yield Served(app.state.gateway, openai, lax, http, url)
    finally:
        server.should_exit = True
        await serving
        tokenizer.close()
