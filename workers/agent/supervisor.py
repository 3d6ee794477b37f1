"""Keeps worker processes running: starts, restarts with back-off, drains, and gives up loudly what only crashes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from shared.child import Child
from shared.messages import ManagedState, ManagedWorker
from workers.agent.backoff import BackOff, BackOffSettings
from workers.agent.settings import LaunchSpec

log = logging.getLogger(__name__)

KILL_AFTER_S = 10.0
"""Beyond the time for draining, what a worker may take to leave."""

OVER = (ManagedState.LEFT, ManagedState.GIVEN_UP)
"""Nothing runs any more; the row stays to be seen."""


@dataclass(eq=False, slots=True)
class Managed:
    """One worker that is wanted here."""

    spec: LaunchSpec
    child: Child
    back_off: BackOff
    state: ManagedState = ManagedState.RUNNING
    restarts: int = 0
    complaint: str = ""
    drain_s: float = 0.0
    asked_to_stop: asyncio.Event = field(default_factory=asyncio.Event)
    life: asyncio.Task[None] | None = None

    @property
    def row(self) -> ManagedWorker:
        process = self.child.process
        pid = process.pid if process and process.returncode is None else 0
        return ManagedWorker(self.spec.name, self.spec.kind, self.state, pid, self.restarts, self.spec.options, self.complaint)


class Supervisor:
    """All on one event loop, whose thread must live as long as the children: their parent, to the kernel, is that thread.

    `changed` is called after every change of a row; `drain` tells a worker that it may take only so long.
    """

    def __init__(
        self,
        make_child: Callable[[LaunchSpec], Child],
        back_off: BackOffSettings,
        changed: Callable[[], None],
        drain: Callable[[str, float], Awaitable[None]],
    ) -> None:
        self._make_child = make_child
        self._settings = back_off
        self._changed = changed
        self._drain = drain
        self._workers: dict[str, Managed] = {}

    def __repr__(self) -> str:
        return f"<Supervisor {', '.join(f'{managed.spec.name} {managed.state}' for managed in self._workers.values())}>"

    def rows(self) -> tuple[ManagedWorker, ...]:
        return tuple(managed.row for managed in self._workers.values())

    async def ensure(self, spec: LaunchSpec) -> ManagedWorker:
        """Runs it, or finds it running; asked twice, it runs once. One that left or was given up gets a new life."""
        managed = self._workers.get(spec.name)
        if managed is None or managed.state in OVER:
            managed = self._workers[spec.name] = Managed(spec, self._make_child(spec), BackOff(self._settings))
            await managed.child.start(echo=True)
            managed.life = asyncio.create_task(self._live(managed))
            self._enter(managed, ManagedState.RUNNING)
        return managed.row

    async def stop(self, name: str, drain_s: float | None = None) -> ManagedWorker | None:
        """Begins to drain it, and answers at once; the row goes when the process is gone. None: nobody of this name."""
        managed = self._workers.get(name)
        if managed is None:
            return None
        if managed.state in OVER:
            del self._workers[name]
            self._changed()
        elif not managed.asked_to_stop.is_set():
            managed.drain_s = managed.spec.drain_s if drain_s is None else drain_s
            self._enter(managed, ManagedState.DRAINING)
            managed.asked_to_stop.set()
        return managed.row

    async def stop_all(self, drain_s: float) -> None:
        """Returns when no process is left."""
        lives = [managed.life for managed in self._workers.values() if managed.life and not managed.life.done()]
        for name in list(self._workers):
            await self.stop(name, drain_s)
        await asyncio.gather(*lives)

    # -- one worker's life

    async def _live(self, managed: Managed) -> None:
        """From its first start to its end: asked for, taken by itself, or after too many crashes."""
        began = time.monotonic()
        while await self._ended_by_itself(managed):
            wait_s = await self._judge(managed, time.monotonic() - began)
            if wait_s is None:
                return
            if not await _within(managed.asked_to_stop.wait(), wait_s):
                managed.restarts += 1
                began = time.monotonic()
                await managed.child.start(echo=True)
                self._enter(managed, ManagedState.RUNNING)
        await self._end(managed)

    async def _ended_by_itself(self, managed: Managed) -> bool:
        """Waits for its end or the wish for it; false: it is to be stopped."""
        process = managed.child.process
        assert process is not None
        waits = [asyncio.create_task(_done(process.wait())), asyncio.create_task(_done(managed.asked_to_stop.wait()))]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return not managed.asked_to_stop.is_set()

    async def _judge(self, managed: Managed, lived_s: float) -> float | None:
        """Seconds until the next start of one that has ended; None: there is none."""
        process, name = managed.child.process, managed.spec.name
        assert process is not None
        if process.returncode == 0:
            log.warning("worker left by itself", extra={"worker": name})
            self._enter(managed, ManagedState.LEFT)
            return None
        managed.complaint = f"exit {process.returncode}: {await managed.child.last_words()}"
        wait_s = managed.back_off.crashed(lived_s)
        if wait_s is None:
            log.error("worker given up after %d crashes in a row: %s", managed.back_off.crashes, managed.complaint, extra={"worker": name})
            self._enter(managed, ManagedState.GIVEN_UP)
            return None
        log.warning("worker crashed, next start in %g s: %s", wait_s, managed.complaint, extra={"worker": name})
        self._enter(managed, ManagedState.BACKING_OFF)
        return wait_s

    async def _end(self, managed: Managed) -> None:
        if managed.child.running:
            await self._drain(managed.spec.name, managed.drain_s)
        await managed.child.stop(managed.drain_s + KILL_AFTER_S)
        if self._workers.get(managed.spec.name) is managed:
            del self._workers[managed.spec.name]
        log.info("worker stopped", extra={"worker": managed.spec.name})
        self._changed()

    def _enter(self, managed: Managed, state: ManagedState) -> None:
        managed.state = state
        self._changed()


async def _done(wait: Coroutine[Any, Any, object]) -> None:
    await wait


async def _within(wait: Coroutine[Any, Any, object], seconds: float) -> bool:
    try:
        await asyncio.wait_for(wait, seconds)
    except TimeoutError:
        return False
    return True
