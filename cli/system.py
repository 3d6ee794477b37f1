"""A whole system on one machine: the message server, and the roles as processes beside it."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx2

from cli.children import Child, Children
from gateway.settings import ExtraModel
from shared.durability import NOT_WAITING, Durability, Mode
from shared.errors import ConfigError, HeadstartError
from shared.fabric_settings import FabricSettings
from shared.keys import Keys
from shared.redis_fabric import RedisFabric
from shared.server import EmbeddedServer, free_port
from shared.types import PoolId, WorkerRef

READY_TIMEOUT_S = 300.0
POLL_S = 0.05

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One worker to launch: its id and the options of `headstart worker` beside the common ones."""

    name: str
    options: tuple[str, ...] = ()
    module: str = "cli"
    """What `python -m` runs in its place, with the same command line."""
    model: ExtraModel | None = None
    """Whose pool it works in; None: the plan's own."""


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """What to launch. An empty `redis_url` means a message server of our own."""

    model: Path
    served_model_name: str
    workers: tuple[WorkerPlan, ...]
    redis_url: str = field(default="", repr=False)
    pool: str = "default"
    host: str = "127.0.0.1"
    ports: tuple[int, ...] = (0,)
    """One gateway each; 0 finds a free one."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """What the gateways accept; they go through the environment, which other users of the machine cannot list."""
    no_auth: bool = False
    schedulers: int = 1
    scheduler_options: tuple[str, ...] = ()
    log_level: str = "warning"
    echo: bool = True
    """Whether the children's logs go to this process's stderr."""
    env: dict[str, str] = field(default_factory=dict)
    api_keys_file: Path | None = None
    extra_models: tuple[ExtraModel, ...] = ()
    """Behind the same gateways; each has schedulers of its own."""
    durability: Durability = NOT_WAITING


class System:
    """Started by `async with`; on leaving, nothing of it is left: no process, socket or file."""

    def __init__(self, plan: SystemPlan, progress: Progress = lambda _: None) -> None:
        self.plan = plan
        self.children = Children(echo=plan.echo)
        self.ports = tuple(port or free_port() for port in plan.ports)
        self._progress = progress
        self._server = None if plan.redis_url else EmbeddedServer(durable=plan.durability.mode is Mode.FSYNC)
        # A server of our own has no other workers. On another's, ours must agree with those that are there already.
        self._pool_secret = secrets.token_urlsafe(32) if self._server else ""

    @property
    def redis_url(self) -> str:
        return self._server.url if self._server else self.plan.redis_url

    @property
    def urls(self) -> tuple[str, ...]:
        """Where this machine reaches the gateways: an address that means all of its own is called by its loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.plan.host, self.plan.host)
        return tuple(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for port in self.ports)

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
        await self._launch(self._plan_children())

    async def add_worker(self, worker: WorkerPlan) -> Child:
        """One more worker, or a new life of one that died; returns when it has joined."""
        child = self._worker(worker)
        await self._launch([child])
        return child

    def _plan_children(self) -> list[Child]:
        plan, env = self.plan, self._env
        gateway = ["gateway", *self._model, *self._common, "--served-model-name", plan.served_model_name, "--host", plan.host]
        gateway += ["--no-auth"] if plan.no_auth else []
        gateway += ["--api-keys-file", str(plan.api_keys_file)] if plan.api_keys_file else []
        gateway += [word for extra in plan.extra_models for word in ("--extra-model", f"{extra.name}={extra.model}@{extra.pool}")]
        # Set even when empty: the keys are the plan's, not those of whoever started this.
        door = env | {"HEADSTART_API_KEYS": ",".join(plan.api_keys)}
        return [
            *(child for pool in self._pools for child in self._schedulers(pool)),
            *map(self._worker, plan.workers),
            *(Child(f"gateway-{at + 1}", [*gateway, "--port", str(port)], door) for at, port in enumerate(self.ports)),
        ]

    def _schedulers(self, pool: str) -> list[Child]:
        suffix = "" if pool == self.plan.pool else f"-{pool}"
        args = ["scheduler", *self._common_of(pool), *self.plan.scheduler_options]
        return [Child(f"scheduler-{at + 1}{suffix}", args, self._env) for at in range(self.plan.schedulers)]

    def _worker(self, worker: WorkerPlan) -> Child:
        extra = worker.model
        model = ["--model", str(extra.model), *self._common_of(extra.pool)] if extra else [*self._model, *self._common]
        args = ["worker", *model, "--name", worker.name, *worker.options]
        return Child(worker.name, args, self._env, module=worker.module)

    @property
    def _model(self) -> list[str]:
        return ["--model", str(self.plan.model)]

    @property
    def _common(self) -> list[str]:
        return self._common_of(self.plan.pool)

    def _common_of(self, pool: str) -> list[str]:
        return ["--pool", pool, "--log-level", self.plan.log_level]

    @property
    def _pools(self) -> list[str]:
        return [self.plan.pool, *(extra.pool for extra in self.plan.extra_models)]

    @property
    def _env(self) -> dict[str, str]:
        secret = {"HEADSTART_POOL_SECRET": self._pool_secret} if self._pool_secret else {}
        common = {
            "HEADSTART_REDIS_URL": self.redis_url,
            "HEADSTART_DURABILITY": str(self.plan.durability),
            "TOKENIZERS_PARALLELISM": "false",
        }
        return {**common, **secret, **self.plan.env}

    async def _launch(self, children: list[Child]) -> None:
        """Returns when the workers among them have joined and every gateway answers.

        Raises `ConfigError` with the last words of one that dies, `HeadstartError` when it takes too long.
        """
        fabric = await RedisFabric.connect(self.redis_url, PoolId(self.plan.pool), FabricSettings(durability=self.plan.durability))
        pools = [RedisFabric(fabric.connection, Keys(PoolId(pool)), fabric.settings) for pool in self._pools]
        try:
            before = await _members(pools)
            for child in children:
                await self.children.add(child)
            await self._until_ready(pools, children, before)
        finally:
            await fabric.disconnect()

    async def _until_ready(self, pools: list[RedisFabric], children: list[Child], before: set[WorkerRef]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            await _complain_of_dead(children)
            joined = {str(ref.worker) for ref in await _members(pools) - before}
            missing = {child.name for child in children if child.args[0] == "worker"} - joined
            silent = [url for url in self.urls if not await _answers(url)]
            if not missing and not silent:
                return
            self._progress(f"waiting for {', '.join([*sorted(missing), *silent])}")
            if time.monotonic() > deadline:
                raise HeadstartError(
                    f"not ready after {READY_TIMEOUT_S:.0f} s: {', '.join([*sorted(missing), *silent])}; see the logs above"
                )
            await asyncio.sleep(POLL_S)


async def _members(pools: list[RedisFabric]) -> set[WorkerRef]:
    return {member.ref for pool in pools for member in await pool.members()}


async def _complain_of_dead(children: list[Child]) -> None:
    dead = next((child for child in children if not child.running), None)
    if dead is not None:
        raise ConfigError(f"{dead.name}: {await dead.last_words()}")


async def _answers(url: str) -> bool:
    try:
        async with httpx2.AsyncClient(timeout=1.0) as client:
            return (await client.get(f"{url}/health")).status_code == 200
    except httpx2.HTTPError:
        return False


def threads_each(workers: int) -> int:
    """CPU threads for each of `workers` models on this machine."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))


def need_model_dir(model: Path) -> None:
    """Raises `ConfigError` before anything is started."""
    if not model.is_dir():
        raise ConfigError(f"--model {model}: no such directory; give the directory of a transformers model with its tokenizer")
