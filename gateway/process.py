"""One gateway process: connects, listens, drains."""

from __future__ import annotations

import asyncio

import uvicorn

from gateway.app import create_app
from gateway.server import run_app
from gateway.settings import GatewaySettings
from gateway.tokenizer import Tokenizer
from shared.processes import on_stop_signals
from shared.redis_fabric import RedisFabric
from shared.types import PoolId


async def serve(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT, then lets open streams end (at most `shutdown_s`); a second signal ends it at once."""
    tokenizer = Tokenizer.load(settings.model, settings.tokenizer_threads)
    stop = asyncio.Event()
    on_stop_signals(stop.set)
    fabric = await RedisFabric.connect(settings.redis_url, PoolId(settings.pool))
    try:
        await run_app(create_app(settings, fabric, tokenizer), settings, stop)
    finally:
        tokenizer.close()
        await fabric.disconnect()


def run(settings: GatewaySettings) -> None:
    """`serve` on the fastest event loop that is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()) as runner:
        runner.run(serve(settings))
