"""One scheduler process: connects, stands by or leads, until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from dataclasses import dataclass

from scheduler.core import SchedulerCore
from scheduler.handover_alarm import HandoverAlarm
from scheduler.loop import LoopSettings, SchedulerLoop
from scheduler.metrics import SchedulerMetrics
from scheduler.settings import SchedulerSettings
from scheduler.tracing import SchedulerTracing
from shared.clock import SystemClock
from shared.durability import NOT_WAITING, Durability
from shared.fabric_settings import FabricSettings
from shared.metrics import NO_DOOR, MetricsDoor, shown
from shared.patience import patiently
from shared.processes import LOOP_ASK_AGAIN_S, cancel_all, on_stop_signals
from shared.redis_fabric import RedisFabric
from shared.types import PoolId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerProcessSettings:
    """What the command line decides."""

    redis_url: str
    pool: str = "default"
    policy: str = "headstart"
    cut: int = 0
    liveness_s: float = 3.0
    grace_s: float = 10.0
    max_crashes: int = 3
    max_waiting: int = 10_000
    ttft_target_s: float = 0.0
    itl_target_s: float = 0.0
    metrics: MetricsDoor = NO_DOOR
    durability: Durability = NOT_WAITING

    @property
    def core(self) -> SchedulerSettings:
        return SchedulerSettings(
            policy=self.policy,
            cut_tokens=self.cut,
            liveness_s=self.liveness_s,
            grace_s=self.grace_s,
            max_crashes=self.max_crashes,
            max_waiting=self.max_waiting,
            ttft_target_s=self.ttft_target_s,
            itl_target_s=self.itl_target_s,
        )


async def serve(settings: SchedulerProcessSettings) -> None:
    """Runs until SIGTERM or SIGINT."""
    core = SchedulerCore(settings.core)
    name = f"scheduler-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    how = FabricSettings(durability=settings.durability)
    fabric = await patiently(lambda: RedisFabric.connect(settings.redis_url, PoolId(settings.pool), how))
    await patiently(fabric.check_versions)
    loop = SchedulerLoop(
        core, fabric, SystemClock(), LoopSettings(name, max_waiting=settings.max_waiting, retention_s=fabric.settings.retention_s)
    )
    metrics = SchedulerMetrics(SystemClock())
    fabric.on_undecodable = metrics.undecodable
    loop.watches += [metrics.watch, HandoverAlarm(SystemClock(), metrics.alarmed).watch, SchedulerTracing(SystemClock()).watch]
    running, stop = asyncio.create_task(loop.run()), asyncio.Event()
    on_stop_signals(stop.set)
    stopped = asyncio.create_task(stop.wait())
    try:
        with shown(metrics.registry, settings.metrics):
            await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        # The loop gives its lease back on the way out.
        await cancel_all([running, stopped], LOOP_ASK_AGAIN_S)
        await fabric.disconnect()
    if not running.cancelled():
        running.result()
