"""One scheduler process: connects, stands by or leads, until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from dataclasses import dataclass

from scheduler.core import SchedulerCore
from scheduler.loop import LoopSettings, SchedulerLoop
from scheduler.settings import SchedulerSettings
from shared.clock import SystemClock
from shared.processes import cancel_all, on_stop_signals
from shared.redis_fabric import RedisFabric
from shared.types import PoolId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerProcessSettings:
    """What the command line decides."""

    redis_url: str
    pool: str = "default"
    policy: str = "take_when_free"
    cut: int = 0


async def serve(settings: SchedulerProcessSettings) -> None:
    """Runs until SIGTERM or SIGINT."""
    core_settings = SchedulerSettings(policy=settings.policy, cut_tokens=settings.cut)
    name = f"scheduler-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    fabric = await RedisFabric.connect(settings.redis_url, PoolId(settings.pool))
    loop = SchedulerLoop(SchedulerCore(core_settings), fabric, SystemClock(), LoopSettings(name, max_waiting=core_settings.max_waiting))
    running, stop = asyncio.create_task(loop.run()), asyncio.Event()
    on_stop_signals(stop.set)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        # The loop gives its lease back on the way out.
        await cancel_all([running, stopped])
        await fabric.disconnect()
    if not running.cancelled():
        running.result()
