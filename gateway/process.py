"""One gateway process: connects, listens, drains."""

from __future__ import annotations

import asyncio

import uvicorn

from gateway.app import create_app
from gateway.model_defaults import ModelDefaults
from gateway.pools import ServedModel
from gateway.server import run_app
from gateway.settings import GatewaySettings, model_length
from gateway.tokenizer import Tokenizer
from shared.fabric_settings import FabricSettings
from shared.keys import Keys
from shared.patience import patiently
from shared.processes import on_stop_signals, spare_collector
from shared.redis_fabric import RedisFabric
from shared.types import PoolId


async def serve(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT, then lets open streams end (at most `shutdown_s`); a second signal ends it at once."""
    tokenizers = [
        Tokenizer.load(settings.model, settings.tokenizer_threads, settings.tool_call_format),
        *(Tokenizer.load(one.model, settings.tokenizer_threads) for one in settings.extra_models),
    ]
    stop = asyncio.Event()
    on_stop_signals(stop.set)
    how = FabricSettings(durability=settings.durability)
    fabric = await patiently(lambda: RedisFabric.connect(settings.redis_url, PoolId(settings.pool), how))
    try:
        # One connection for all pools: their keys differ, the server does not.
        pools = [RedisFabric(fabric.connection, Keys(PoolId(extra.pool)), fabric.settings) for extra in settings.extra_models]
        for pool in (fabric, *pools):
            await patiently(pool.check_versions)
        more = [
            ServedModel(extra.name, pool, tokenizer, model_length(extra.model), ModelDefaults.read(extra.model))
            for extra, pool, tokenizer in zip(settings.extra_models, pools, tokenizers[1:], strict=True)
        ]
        app = create_app(settings, fabric, tokenizers[0], more=more)
        spare_collector()
        await run_app(app, settings, stop)
    finally:
        for tokenizer in tokenizers:
            tokenizer.close()
        await fabric.disconnect()


def run(settings: GatewaySettings) -> None:
    """`serve` on the fastest event loop that is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()) as runner:
        runner.run(serve(settings))
