"""One agent process: takes the lease of its host, then serves Celery until it is told to leave."""

from __future__ import annotations

import asyncio
import logging

from shared.redis_fabric import RedisFabric
from shared.types import PoolId
from workers.agent.control import serve_host
from workers.agent.keeper import Keeper
from workers.agent.settings import AgentSettings, broker_url, cluster_refused

log = logging.getLogger(__name__)


def serve(settings: AgentSettings) -> int:
    """Blocks until SIGTERM or SIGINT, then drains its workers. Raises `ConfigError` or `FabricUnavailable` if it cannot start."""
    broker = broker_url(settings.redis_url, settings.celery_url)
    if not settings.celery_url and asyncio.run(_is_cluster(settings)):
        raise cluster_refused()
    keeper = Keeper(settings)
    keeper.start()
    log.info("agent of %s listens to %s", settings.host, settings.queue)
    try:
        return serve_host(broker, keeper, settings.queue, settings.host)
    finally:
        keeper.stop()


async def _is_cluster(settings: AgentSettings) -> bool:
    fabric = await RedisFabric.connect(settings.redis_url, PoolId(settings.pool))
    try:
        return fabric.connection.is_cluster
    finally:
        await fabric.disconnect()
