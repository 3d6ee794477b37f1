"""The commands that are one role each: what `headstart up` starts, and what a cluster starts apart."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cli.options import ApiKeys, Dtype, LogLevel, Model, NoAuth, Pool, RedisUrl, ServedName, device_name, one_of


def gateway(
    model: Model,
    redis_url: RedisUrl,
    pool: Pool = "default",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    served_model_name: ServedName = "",
    api_key: ApiKeys = None,
    no_auth: NoAuth = False,
    max_model_tokens: Annotated[int, typer.Option(min=0, help="Prompt and output together; 0: as the model's config.json says.")] = 0,
    default_max_tokens: Annotated[int, typer.Option(min=1, help="Most output tokens of who asks for no number.")] = 4096,
    shutdown_s: Annotated[float, typer.Option(min=0, help="How long open streams may go on after SIGTERM.")] = 30.0,
    log_level: LogLevel = "info",
) -> None:
    """The HTTP door. Any number of them may run."""
    from gateway.settings import GatewaySettings, api_keys_of
    from shared import logs

    logs.configure("gateway", log_level)
    settings = GatewaySettings(
        redis_url=redis_url,
        model=model,
        served_model_name=served_model_name or model.name,
        host=host,
        port=port,
        pool=pool,
        api_keys=api_keys_of(api_key or ()),
        no_auth=no_auth,
        max_model_tokens=max_model_tokens,
        default_max_tokens=default_max_tokens,
        shutdown_s=shutdown_s,
    )
    from gateway.process import run  # after the settings: a bad option is told at once

    run(settings)


def scheduler(
    redis_url: RedisUrl,
    pool: Pool = "default",
    policy: Annotated[str, typer.Option(envvar="HEADSTART_POLICY", help="Who gives head starts and who takes.")] = "take_when_free",
    cut: Annotated[int, typer.Option(min=0, help="For the policy fixed_cut: tokens of every head start.")] = 0,
    liveness_s: Annotated[float, typer.Option(min=0.1, help="Silence after which a worker is dead.")] = 3.0,
    grace_s: Annotated[float, typer.Option(min=0, help="How long a request lives after its client has left.")] = 10.0,
    max_crashes: Annotated[int, typer.Option(min=1, help="Attempts that ended in a crash before a request fails.")] = 3,
    max_waiting: Annotated[int, typer.Option(min=1, help="Waiting requests beyond which more are refused.")] = 10_000,
    log_level: LogLevel = "info",
) -> None:
    """Places requests. One leads, others stand by."""
    from scheduler.process import SchedulerProcessSettings, serve
    from shared import logs

    logs.configure("scheduler", log_level)
    settings = SchedulerProcessSettings(
        redis_url=redis_url,
        pool=pool,
        policy=policy,
        cut=cut,
        liveness_s=liveness_s,
        grace_s=grace_s,
        max_crashes=max_crashes,
        max_waiting=max_waiting,
    )
    asyncio.run(serve(settings))


def worker(
    redis_url: RedisUrl,
    model: Model,
    engine: Annotated[
        str, typer.Option(help="torch, or fake: the engine without a model, for trying the fabric.", callback=one_of("torch", "fake"))
    ] = "torch",
    name: Annotated[str, typer.Option(help="The worker's id; by default host and process.")] = "",
    pool: Pool = "default",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", callback=device_name)] = "cpu",
    dtype: Dtype = "float32",
    token_budget: Annotated[int, typer.Option(min=1, help="Tokens in one engine step.")] = 512,
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences held at once, owned or assisted.")] = 32,
    block_tokens: Annotated[int, typer.Option(min=1, max=64, help="Tokens in one KV block; divides 64.")] = 16,
    kv_mib: Annotated[int, typer.Option(min=1, help="Memory of the KV cache in MiB.")] = 512,
    staging_mib: Annotated[int, typer.Option(min=1, help="Memory for transfers in flight in MiB.")] = 128,
    slowdown: Annotated[
        float, typer.Option(min=1.0, help="Makes every step this many times as long, to stand in for a slower device.")
    ] = 1.0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the model; 0: as torch decides.")] = 0,
    fake_kv_bytes: Annotated[int, typer.Option(min=16, help="For the engine fake: KV bytes of a token, to size its transfers.")] = 16,
    drain_s: Annotated[
        float, typer.Option(min=0, help="How long after SIGTERM its requests may run on before they are handed back.")
    ] = 30.0,
    max_assists: Annotated[int, typer.Option(min=1, help="Head starts advanced at the same time.")] = 2,
    depth: Annotated[int, typer.Option(min=1, max=2, help="Engine steps under way at once; 2 plans one while the other runs.")] = 1,
    log_level: LogLevel = "info",
) -> None:
    """One device: prefill, decode, head starts."""
    from shared import logs
    from workers.process import WorkerProcessSettings, serve

    logs.configure("worker", log_level)
    settings = WorkerProcessSettings(
        redis_url=redis_url,
        model=model,
        engine=engine,
        name=name,
        pool=pool,
        device=device,
        dtype=dtype,
        token_budget=token_budget,
        max_sequences=max_sequences,
        block_tokens=block_tokens,
        kv_bytes=kv_mib << 20,
        staging_bytes=staging_mib << 20,
        slowdown=slowdown,
        threads=threads,
        fake_kv_bytes=fake_kv_bytes,
        drain_s=drain_s,
        max_assists=max_assists,
        depth=depth,
    )
    asyncio.run(serve(settings))
