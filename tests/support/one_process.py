"""A whole system in one process and event loop: real cores, shells and message server; engines without a model, KV over a loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from scheduler.core import SchedulerCore
from scheduler.loop import LoopSettings, SchedulerLoop
from scheduler.settings import SchedulerSettings
from shared.clock import SystemClock
from shared.processes import LOOP_ASK_AGAIN_S, cancel_all
from shared.redis_fabric import RedisFabric
from shared.types import WorkerId, WorkerRef
from workers.core import WorkerCore
from workers.engine_thread import EngineThread
from workers.hf_detokenizer import HfDetokenizer
from workers.loop import LoopSettings as WorkerHabits
from workers.loop import WorkerLoop
from workers.loopback_transport import LoopbackHub, LoopbackTransport
from workers.mover import Mover
from workers.output import OutputBook, OutputStage
from workers.process import WorkerProcessSettings, build_engine, core_settings, new_incarnation, pretended, worker_info
from workers.tickets import OPEN, Tickets


@contextlib.asynccontextmanager
async def scheduling(url: str, settings: SchedulerSettings) -> AsyncIterator[SchedulerLoop]:
    fabric = await RedisFabric.connect(url)
    loop = SchedulerLoop(SchedulerCore(settings), fabric, SystemClock(), LoopSettings("one-process", renew_s=0.1, tick_s=0.05))
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        await cancel_all([running], LOOP_ASK_AGAIN_S)
        await fabric.disconnect()


@contextlib.asynccontextmanager
async def working(
    url: str,
    model: Path,
    name: str,
    hub: LoopbackHub,
    *,
    slowdown: float = 1.0,
    tickets: Tickets = OPEN,
    habits: WorkerHabits | None = None,
) -> AsyncIterator[WorkerLoop]:
    """Put together as `workers.process` does, but for its transport; drains at the end."""
    settings = WorkerProcessSettings(
        url, model, engine="fake", name=name, kv_bytes=4 << 20, slowdown=slowdown, role="low" if slowdown > 1 else "", drain_s=0.0
    )
    ref = WorkerRef(WorkerId(name), new_incarnation())
    engine = build_engine(settings)
    profile = pretended(settings, engine)
    fabric = await RedisFabric.connect(url)
    core = WorkerCore(core_settings(settings, ref, engine, profile))
    loop = WorkerLoop(core, fabric, worker_info(settings, ref, engine, profile), SystemClock(), habits, tickets)
    loop.attach(
        EngineThread(engine, loop.from_thread),
        Mover(ref, engine, LoopbackTransport(hub, ref), loop.tell_worker_from_thread, loop.from_thread, tickets),
        OutputStage(OutputBook(HfDetokenizer(model), SystemClock()), lambda: RedisFabric.connect(url), loop.from_thread),
    )
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        loop.drain()
        await running
        await fabric.disconnect()
        engine.close()
