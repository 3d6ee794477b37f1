"""The commands that are one role each: what `headstart up` starts, and what a cluster starts apart."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.options import (
    ENGINE,
    ApiKeys,
    ApiKeysFile,
    BlockTokens,
    CeleryUrl,
    Device,
    Dtype,
    DurabilityText,
    EngineName,
    ExtraModels,
    KvMib,
    LogFormat,
    LogLevel,
    MaxSequences,
    MetricsHost,
    MetricsPort,
    Model,
    NoAuth,
    Pool,
    PoolSecretFile,
    RedisUrl,
    RequestRate,
    ServedName,
    Slowdown,
    StagingMib,
    Threads,
    TokenBudget,
    TokenRate,
    one_of,
)


def gateway(
    model: Model,
    redis_url: RedisUrl,
    pool: Pool = "default",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    served_model_name: ServedName = "",
    api_key: ApiKeys = None,
    api_keys_file: ApiKeysFile = None,
    requests_per_minute: RequestRate = 0,
    tokens_per_minute: TokenRate = 0,
    extra_model: ExtraModels = None,
    no_auth: NoAuth = False,
    max_model_tokens: Annotated[int, typer.Option(min=0, help="Prompt and output together; 0: as the model's config.json says.")] = 0,
    default_max_tokens: Annotated[int, typer.Option(min=1, help="Most output tokens of who asks for no number.")] = 4096,
    tool_call_format: Annotated[str, typer.Option(help="hermes, llama3 or generic; by default what the model's chat template says.")] = "",
    shutdown_s: Annotated[float, typer.Option(min=0, help="How long open streams may go on after SIGTERM.")] = 30.0,
    durability: DurabilityText = "default",
    log_level: LogLevel = "info",
    log_format: LogFormat = "",
) -> None:
    """The HTTP door. Any number of them may run."""
    from gateway.api_keys import rules_in
    from gateway.settings import ExtraModel, GatewaySettings, api_keys_of
    from shared import logs, tracing
    from shared.durability import Durability

    logs.configure("gateway", log_level, log_format)
    tracing.configure("gateway")
    settings = GatewaySettings(
        redis_url=redis_url,
        model=model,
        served_model_name=served_model_name or model.name,
        host=host,
        port=port,
        pool=pool,
        api_keys=api_keys_of(api_key or ()),
        key_rules=rules_in(api_keys_file),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        extra_models=tuple(map(ExtraModel.parse, extra_model or ())),
        no_auth=no_auth,
        max_model_tokens=max_model_tokens,
        default_max_tokens=default_max_tokens,
        tool_call_format=tool_call_format,
        shutdown_s=shutdown_s,
        durability=Durability.parse(durability),
    )
    from gateway.process import run  # after the settings: a bad option is told at once

    run(settings)


def scheduler(
    redis_url: RedisUrl,
    pool: Pool = "default",
    policy: Annotated[str, typer.Option(envvar="HEADSTART_POLICY", help="Who gives head starts and who takes.")] = "headstart",
    cut: Annotated[int, typer.Option(min=0, help="For the policy fixed-cut: tokens of every head start.")] = 0,
    liveness_s: Annotated[float, typer.Option(min=0.1, help="Silence after which a worker is dead.")] = 3.0,
    grace_s: Annotated[float, typer.Option(min=0, help="How long a request lives after its client has left.")] = 10.0,
    max_crashes: Annotated[int, typer.Option(min=1, help="Attempts that ended in a crash before a request fails.")] = 3,
    max_waiting: Annotated[int, typer.Option(min=1, help="Waiting requests beyond which more are refused.")] = 10_000,
    ttft_target_s: Annotated[
        float,
        typer.Option(min=0, help="Seconds to the first token that are good enough: cheaper low-ends may take the request; 0: none."),
    ] = 0.0,
    itl_target_s: Annotated[float, typer.Option(min=0, help="Seconds between tokens that are good enough; 0: no target.")] = 0.0,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    durability: DurabilityText = "default",
    log_level: LogLevel = "info",
    log_format: LogFormat = "",
) -> None:
    """Places requests. One leads, others stand by."""
    from scheduler.process import SchedulerProcessSettings, serve
    from shared import logs, tracing
    from shared.durability import Durability
    from shared.metrics import MetricsDoor
    from shared.processes import run

    logs.configure("scheduler", log_level, log_format)
    tracing.configure("scheduler")
    settings = SchedulerProcessSettings(
        redis_url=redis_url,
        pool=pool,
        policy=policy,
        cut=cut,
        ttft_target_s=ttft_target_s,
        itl_target_s=itl_target_s,
        liveness_s=liveness_s,
        grace_s=grace_s,
        max_crashes=max_crashes,
        max_waiting=max_waiting,
        metrics=MetricsDoor(metrics_port, metrics_host),
        durability=Durability.parse(durability),
    )
    run(serve(settings))


def worker(
    redis_url: RedisUrl,
    model: Model,
    engine: EngineName = "torch",
    name: Annotated[str, typer.Option(help="The worker's id; by default host and process.")] = "",
    pool: Pool = "default",
    device: Device = ENGINE.device,
    dtype: Dtype = ENGINE.dtype,
    token_budget: TokenBudget = ENGINE.token_budget,
    max_sequences: MaxSequences = ENGINE.max_sequences,
    block_tokens: BlockTokens = ENGINE.block_tokens,
    kv_mib: KvMib = ENGINE.kv_mib,
    staging_mib: StagingMib = ENGINE.staging_mib,
    slowdown: Slowdown = ENGINE.slowdown,
    role: Annotated[
        str,
        typer.Option(
            help="auto: its measured speed says whether it is low- or high-end; low and high settle it.",
            callback=one_of("auto", "low", "high"),
        ),
    ] = "auto",
    usd_per_hour: Annotated[
        float, typer.Option(min=0, envvar="HEADSTART_USD_PER_HOUR", help="What this device costs; 0: unknown, no decision rests on it.")
    ] = 0.0,
    threads: Threads = ENGINE.threads,
    profile: Annotated[
        Path | None,
        typer.Option(help="A file of `headstart profile --output`, believed as it is; by default a known profile or a new one."),
    ] = None,
    fake_kv_bytes: Annotated[int, typer.Option(min=16, help="For the engine fake: KV bytes of a token, to size its transfers.")] = 16,
    drain_s: Annotated[
        float, typer.Option(min=0, help="How long after SIGTERM its requests may run on before they are handed back.")
    ] = 30.0,
    step_limit_s: Annotated[
        float,
        typer.Option(min=0, help="A step that takes longer is a hanging engine: the worker ends as crashed; 0: 10 times its longest step."),
    ] = 0.0,
    max_assists: Annotated[int, typer.Option(min=1, help="Head starts advanced at the same time.")] = 2,
    depth: Annotated[int, typer.Option(min=1, max=2, help="Engine steps under way at once; 2 plans one while the other runs.")] = 1,
    prefix_cache: Annotated[
        bool,
        typer.Option("--prefix-cache/--no-prefix-cache", help="Keep the KV of prompts for later ones of the same tenant that begin alike."),
    ] = True,
    pool_secret_file: PoolSecretFile = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    durability: DurabilityText = "default",
    log_level: LogLevel = "info",
    log_format: LogFormat = "",
) -> None:
    """One device: prefill, decode, head starts."""
    from shared import logs, tracing
    from shared.durability import Durability
    from shared.metrics import MetricsDoor
    from shared.processes import run
    from workers.process import WorkerProcessSettings, serve
    from workers.tickets import pool_secret_of

    logs.configure("worker", log_level, log_format)
    tracing.configure("worker")
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
        role="" if role == "auto" else role,
        usd_per_hour=usd_per_hour,
        threads=threads,
        fake_kv_bytes=fake_kv_bytes,
        drain_s=drain_s,
        step_limit_s=step_limit_s,
        max_assists=max_assists,
        depth=depth,
        prefix_cache=prefix_cache,
        pool_secret=pool_secret_of(pool_secret_file, os.environ.get("HEADSTART_POOL_SECRET", "")),
        metrics=MetricsDoor(metrics_port, metrics_host),
        profile=profile,
        durability=Durability.parse(durability),
    )
    run(serve(settings))


def agent(
    redis_url: RedisUrl,
    celery_url: CeleryUrl = "",
    model: Annotated[
        Path | None,
        typer.Option(envvar="HEADSTART_MODEL", help="Directory of the model on this host, for workers whose launcher names none."),
    ] = None,
    pool: Pool = "default",
    host_name: Annotated[str, typer.Option(help="The host's name among agents; by default its own.")] = "",
    drain_s: Annotated[float, typer.Option(min=0, help="How long after SIGTERM its workers may drain.")] = 30.0,
    max_crashes: Annotated[int, typer.Option(min=1, help="Crashes in a row after which a worker is given up.")] = 6,
    log_level: LogLevel = "info",
    log_format: LogFormat = "",
) -> None:
    """Launches and stops workers on this host, as `headstart scale` asks. One per host."""
    from shared import logs
    from workers.agent.backoff import BackOffSettings
    from workers.agent.process import serve
    from workers.agent.settings import AgentSettings

    logs.configure("agent", log_level, log_format)
    settings = AgentSettings(
        redis_url=redis_url,
        host=host_name or socket.gethostname(),
        celery_url=celery_url,
        model=model,
        pool=pool,
        log_level=log_level,
        log_format=log_format,
        drain_s=drain_s,
        back_off=BackOffSettings(max_crashes=max_crashes),
    )
    sys.exit(serve(settings))
