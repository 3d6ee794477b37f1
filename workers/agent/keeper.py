"""The agent's own thread: the supervisor lives here, and the lease by which the agent is found."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from shared.child import Child
from shared.errors import BadRequest, ConfigError, FabricError
from shared.messages import AgentInfo, Drain, ManagedWorker
from shared.processes import cancel_all
from shared.redis_agents import AgentRegistry
from shared.redis_fabric import RedisFabric
from shared.types import PoolId
from workers.agent.settings import AgentSettings, LaunchSpec
from workers.agent.supervisor import Supervisor

log = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S = 10.0
SOON_S = 0.05
"""Changes that come together are told together."""


class Keeper:
    """`start` and `stop` from the main thread; `launch`, `drain` and `workers` from any."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._incarnation = secrets.token_hex(8)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="keeper")

    # -- from other threads

    def start(self) -> None:
        """Returns when the lease of this host is ours; raises what prevented it."""
        self._thread.start()
        self._ready.wait()
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Drains every worker; returns when no process is left."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join()

    def launch(self, spec: LaunchSpec) -> ManagedWorker:
        if not spec.model and self._settings.model is None:
            raise BadRequest("'model' is missing: name one, or start the agent with --model (HEADSTART_MODEL).", "model")
        return self._call(self._supervisor.ensure(spec))

    def drain(self, name: str, drain_s: float | None) -> ManagedWorker | None:
        return self._call(self._supervisor.stop(name, drain_s))

    def workers(self) -> tuple[ManagedWorker, ...]:
        return self._supervisor.rows()

    def _call(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(CALL_S)

    # -- in its own

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._run())
            except Exception as error:
                self._failure = error
                if self._ready.is_set():
                    log.exception("the agent's own thread has failed")
            finally:
                self._ready.set()

    async def _run(self) -> None:
        self._leaving, self._changed = asyncio.Event(), asyncio.Event()
        self._fabric = await RedisFabric.connect(self._settings.redis_url, PoolId(self._settings.pool))
        registry = AgentRegistry.of(self._fabric)
        self._supervisor = Supervisor(self._child, self._settings.back_off, self._changed.set, self._hurry)
        try:
            await self._take_lease(registry)
            self._ready.set()
            await self._serve(registry)
        finally:
            await self._fabric.disconnect()

    async def _serve(self, registry: AgentRegistry) -> None:
        renewing = asyncio.create_task(self._renew(registry))
        try:
            await self._leaving.wait()
            await self._supervisor.stop_all(self._settings.drain_s)
        finally:
            await cancel_all([renewing])
            try:
                await registry.leave(self._info())
            except FabricError as error:
                log.warning("left without saying goodbye: %s", error)

    async def _take_lease(self, registry: AgentRegistry) -> None:
        """An earlier agent that was killed still holds it for a while."""
        deadline = self._loop.time() + self._settings.lease_s + 1
        while not await registry.renew(self._info(), self._settings.lease_s):
            if self._loop.time() > deadline:
                raise ConfigError(
                    f"--host-name {self._settings.host}: another agent of pool {self._settings.pool} has this name; "
                    "stop it, or choose another name"
                )
            await asyncio.sleep(self._settings.renew_s / 4)

    async def _renew(self, registry: AgentRegistry) -> None:
        """At once after a change, else now and then."""
        while True:
            try:
                async with asyncio.timeout(self._settings.renew_s):
                    await self._changed.wait()
                await asyncio.sleep(SOON_S)
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                if not await registry.renew(self._info(), self._settings.lease_s):
                    log.error("another agent holds the lease of %s", self._settings.host)
            except FabricError as error:
                log.warning("the lease cannot be renewed yet: %s", error)

    def _info(self) -> AgentInfo:
        settings = self._settings
        rows = self._supervisor.rows()
        return AgentInfo(settings.host, self._incarnation, settings.queue, os.getpid(), accelerators(), os.cpu_count() or 1, rows)

    async def _hurry(self, name: str, drain_s: float) -> None:
        """A worker drains as long as it was told at its launch; this says less where less is given."""
        try:
            for member in await self._fabric.members():
                if member.ref.worker == name:
                    await self._fabric.tell_worker(member.ref, Drain(drain_s))
        except FabricError as error:
            log.warning("%s was not told how long it may drain: %s", name, error)

    def _child(self, spec: LaunchSpec) -> Child:
        settings = self._settings
        args = ["worker", "--model", spec.model or str(settings.model), "--pool", settings.pool, "--name", spec.name]
        args += ["--log-level", settings.log_level, "--drain-s", str(spec.drain_s), *spec.options]
        env = {"HEADSTART_REDIS_URL": settings.redis_url, "TOKENIZERS_PARALLELISM": "false"}
        env |= {"HEADSTART_LOG_FORMAT": settings.log_format} if settings.log_format else {}
        return Child(spec.name, args, env, starting=False)


def accelerators() -> tuple[str, ...]:
    """CUDA devices that the driver shows, without loading torch; `CUDA_VISIBLE_DEVICES` hides some."""
    found = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdecimal()])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = found if visible is None else min(found, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))
    return tuple(f"cuda:{at}" for at in range(count))
