"""A whole system on one machine: the message server, and the roles as processes beside it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx2

from cli.children import Child, Children
from shared.errors import ConfigError, FabricUnavailable
from shared.redis_fabric import RedisFabric
from shared.server import EmbeddedServer, free_port
from shared.types import PoolId

READY_TIMEOUT_S = 300.0
POLL_S = 0.05

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One worker to launch: its id and the options of `headstart worker` beside the common ones."""

    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """What to launch. An empty `redis_url` means a message server of our own."""

    model: Path
    served_model_name: str
    workers: tuple[WorkerPlan, ...]
    redis_url: str = ""
    pool: str = "default"
    host: str = "127.0.0.1"
    ports: tuple[int, ...] = (0,)
    """One gateway each; 0 finds a free one."""
    schedulers: int = 1
    scheduler_options: tuple[str, ...] = ()
    log_level: str = "warning"
    echo: bool = True
    """Whether the children's logs go to this process's stderr."""
    env: dict[str, str] = field(default_factory=dict)


class System:
    """Started by `async with`; on leaving, nothing of it is left: no process, socket or file."""

    def __init__(self, plan: SystemPlan, progress: Progress = lambda _: None) -> None:
        self.plan = plan
        self.children = Children(echo=plan.echo)
        self.ports = tuple(port or free_port() for port in plan.ports)
        self._progress = progress
        self._server = None if plan.redis_url else EmbeddedServer()

    @property
    def redis_url(self) -> str:
        return self._server.url if self._server else self.plan.redis_url

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"http://{self.plan.host}:{port}" for port in self.ports)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.children.stop()
        if self._server:
            await asyncio.to_thread(self._server.stop)

    async def _start(self) -> None:
        if self._server:
            self._progress("message server")
            await asyncio.to_thread(self._server.start)
        for child in self._plan_children():
            await self.children.add(child)
        await self._until_ready()

    def _plan_children(self) -> list[Child]:
        plan = self.plan
        common = ["--pool", plan.pool, "--log-level", plan.log_level]
        env = {"HEADSTART_REDIS_URL": self.redis_url, "TOKENIZERS_PARALLELISM": "false", **plan.env}
        model = ["--model", str(plan.model)]
        gateway = ["gateway", *model, *common, "--served-model-name", plan.served_model_name, "--host", plan.host]
        return [
            *(Child(f"scheduler-{at + 1}", ["scheduler", *common, *plan.scheduler_options], env) for at in range(plan.schedulers)),
            *(Child(worker.name, ["worker", *model, *common, "--name", worker.name, *worker.options], env) for worker in plan.workers),
            *(Child(f"gateway-{at + 1}", [*gateway, "--port", str(port)], env) for at, port in enumerate(self.ports)),
        ]

    async def _until_ready(self) -> None:
        """Every gateway answers and every worker has joined. Raises `ConfigError` with its last words if one dies."""
        fabric = await RedisFabric.connect(self.redis_url, PoolId(self.plan.pool))
        waiting_for = {worker.name for worker in self.plan.workers}
        try:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while True:
                self._complain_of_dead()
                missing = waiting_for - {str(member.ref.worker) for member in await fabric.members()}
                silent = [url for url in self.urls if not await _answers(url)]
                if not missing and not silent:
                    return
                self._progress(f"waiting for {', '.join([*sorted(missing), *silent])}")
                if time.monotonic() > deadline:
                    raise FabricUnavailable(
                        f"not ready after {READY_TIMEOUT_S:.0f} s: {', '.join([*missing, *silent])}; see the logs above"
                    )
                await asyncio.sleep(POLL_S)
        finally:
            await fabric.disconnect()

    def _complain_of_dead(self) -> None:
        dead = self.children.first_dead()
        if dead is not None:
            last = next((line for line in reversed(dead.tail) if line.startswith("headstart: ")), None)
            raise ConfigError(last.removeprefix("headstart: ") if last else f"{dead.name} did not start: " + " | ".join(dead.tail[-3:]))


async def _answers(url: str) -> bool:
    try:
        async with httpx2.AsyncClient(timeout=1.0) as client:
            return (await client.get(f"{url}/health")).status_code == 200
    except httpx2.HTTPError:
        return False


def threads_each(workers: int) -> int:
    """CPU threads for each of `workers` models on this machine."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))
