"""A gateway on a loopback port inside the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from openai import AsyncOpenAI

from gateway.app import create_app
from gateway.pools import GatewayFabric, ServedModel
from gateway.server import Server, listen
from gateway.service import Gateway
from gateway.settings import GatewaySettings
from gateway.tokenizer import Tokenizer
from shared.types import RequestSpec
from tests.support.fake_owner import End, FakeOwner, Say, Step
from tests.support.model_fabric import ModelFabric
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


@lru_cache
def tokenizer_of(model: Path) -> Tokenizer:
    """Loaded once per test process: loading takes longer than most tests."""
    return Tokenizer.load(model)


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """`eventually` for a condition that needs no await."""

    async def look() -> bool:
        return bool(condition())

    await eventually(look, timeout_s)


@asynccontextmanager
async def served(
    settings: GatewaySettings, fabric: GatewayFabric, *, api_key: str = "none", more: Sequence[ServedModel] = ()
) -> AsyncIterator[Served]:
    app = create_app(settings, fabric, tokenizer_of(settings.model), more=more)
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await until(lambda: server.started or serving.done())
        # Without TLS there is nothing to verify, and no certificates to load for every client.
        async with httpx2.AsyncClient(base_url=url, timeout=30, verify=False) as http:
            options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": api_key, "max_retries": 0, "http_client": http}
            yield Served(app.state.gateway, AsyncOpenAI(**options, _strict_response_validation=True), AsyncOpenAI(**options), http, url)
    finally:
        server.should_exit = True
        await serving


HELLO = (Say("Hel"), Say("lo", 2), Say("", 1), Say(" there"), End())


@dataclass
class Stage:
    """A gateway with a fake owner behind it, on a fabric in memory."""

    served: Served
    owner: FakeOwner
    fabric: ModelFabric

    def plays(self, *steps: Step) -> None:
        self.owner.script = lambda spec: steps

    def remembers_specs(self) -> list[RequestSpec]:
        specs: list[RequestSpec] = []

        def script(spec: RequestSpec) -> tuple[Step, ...]:
            specs.append(spec)
            return HELLO

        self.owner.script = script
        return specs


@asynccontextmanager
async def staged(settings: GatewaySettings, *, api_key: str = "none") -> AsyncIterator[Stage]:
    fabric = ModelFabric()
    owner = FakeOwner(fabric.as_fabric(), lambda spec: HELLO)
    async with served(settings, fabric.as_fabric(), api_key=api_key) as running, owner.working():
        yield Stage(running, owner, fabric)
