"""The `headstart` command: parses once, fails loudly in one line, hands frozen settings down."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cli import dead_letters, roles
from cli.children import COMPLAINT
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
    LogLevel,
    MaxSequences,
    Model,
    NoAuth,
    Pool,
    RedisUrl,
    ServedName,
    Slowdown,
    StagingMib,
    Threads,
    TokenBudget,
)
from shared.errors import ConfigError, FabricUnavailable, HeadstartError
from shared.processes import die_with_parent

app = typer.Typer(
    name="headstart",
    help="Serve large language models on mixed hardware: slow GPUs give every prompt a head start, fast GPUs finish it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

for role in (roles.gateway, roles.scheduler, roles.worker, roles.agent):
    app.command()(role)
app.add_typer(dead_letters.app, name="dead-letters")


@app.callback(invoke_without_command=True)
def headstart(show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if show_version:
        typer.echo(version("headstart"))
        raise typer.Exit


@app.command()
def up(
    model: Model,
    low: Annotated[int, typer.Option(min=0, help="Low-end workers.")] = 1,
    high: Annotated[int, typer.Option(min=1, help="High-end workers.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port.")] = 8000,
    host: Annotated[str, typer.Option(help="The gateway's address.")] = "127.0.0.1",
    redis_url: RedisUrl = "",
    pool: Pool = "default",
    served_model_name: ServedName = "",
    api_key: ApiKeys = None,
    api_keys_file: ApiKeysFile = None,
    extra_model: ExtraModels = None,
    no_auth: NoAuth = False,
    engine: EngineName = "torch",
    dtype: Dtype = ENGINE.dtype,
    low_slowdown: Annotated[
        float, typer.Option(min=1.0, help="Where all workers would share one kind of device: how much slower the low-end ones are made.")
    ] = 3.0,
    durability: DurabilityText = "default",
    log_level: LogLevel = "warning",
) -> None:
    """Everything on this machine: message server, scheduler, workers, gateway. Ctrl-C stops all."""
    from cli.up import UpSettings, run_up
    from gateway.settings import ExtraModel, api_keys_of
    from shared.durability import Durability

    settings = UpSettings(
        model=model,
        low=low,
        high=high,
        host=host,
        port=port,
        redis_url=redis_url,
        pool=pool,
        served_model_name=served_model_name or model.name,
        api_keys=api_keys_of(api_key or ()),
        no_auth=no_auth,
        engine=engine,
        dtype=dtype,
        low_slowdown=low_slowdown,
        log_level=log_level,
        api_keys_file=api_keys_file,
        extra_models=tuple(map(ExtraModel.parse, extra_model or ())),
        durability=Durability.parse(durability),
    )
    asyncio.run(run_up(settings))


@app.command()
def simulate(
    cluster: Annotated[Path, typer.Option(help="TOML file: the model and the workers. See examples/clusters.")],
    trace: Annotated[Path, typer.Option(help="An Azure LLM trace (.csv) or a Mooncake trace (.jsonl).")],
    policy: Annotated[list[str], typer.Option(help="A policy to run; repeatable.")] = ["headstart"],  # noqa: B006
    requests: Annotated[int, typer.Option(min=1, help="The first so many requests of the trace.")] = 1000,
    rate: Annotated[float | None, typer.Option(min=0.0, help="Requests a second instead of the trace's own times; 0: all at once.")] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="Gaps of a Poisson process at --rate.")] = False,
    workers: Annotated[
        list[str] | None, typer.Option(help="NAME=COUNT: so many workers of this kind instead of the file's; repeatable.")
    ] = None,
    link_gb_s: Annotated[float | None, typer.Option(min=0.001, help="Between any two workers instead of the file's, GB/s one way.")] = None,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Of every worker's step instead of the file's.")] = None,
    ttft: Annotated[float, typer.Option(min=0.0, help="Target for goodput: seconds to the first token.")] = 2.0,
    itl: Annotated[float, typer.Option(min=0.0, help="Target for goodput: seconds between tokens, a request's mean.")] = 0.1,
    itl_p99: Annotated[
        float, typer.Option(min=0.0, help="One limit for all: seconds between tokens at p99; the table marks who breaks it.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the noise in measured profiles, and of --poisson.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for figures.json, plots and index.html.")] = None,
) -> None:
    """Serves a trace on a cluster that need not exist, under each policy, with the scheduler's and the workers' own code."""
    from cli.simulate import SimulateSettings, run_simulate
    from scheduler.simulation.serving.figures import Targets
    from scheduler.simulation.serving.what_if import WhatIf

    what_if = WhatIf(tuple(workers or ()), link_gb_s, token_budget)
    targets = Targets(ttft, itl, itl_p99)
    run_simulate(SimulateSettings(cluster, trace, tuple(policy), requests, rate, poisson, targets, seed, what_if, out))


@app.command()
def profile(
    model: Model,
    redis_url: Annotated[str, typer.Option(envvar="HEADSTART_REDIS_URL", help="Where to store it for the pool's workers, if given.")] = "",
    pool: Pool = "default",
    device: Device = ENGINE.device,
    dtype: Dtype = ENGINE.dtype,
    token_budget: TokenBudget = ENGINE.token_budget,
    max_sequences: MaxSequences = ENGINE.max_sequences,
    block_tokens: BlockTokens = ENGINE.block_tokens,
    kv_mib: KvMib = ENGINE.kv_mib,
    staging_mib: StagingMib = ENGINE.staging_mib,
    slowdown: Slowdown = ENGINE.slowdown,
    threads: Threads = ENGINE.threads,
    seconds: Annotated[float, typer.Option(min=1, max=110, help="How long to measure steps, at most.")] = 90.0,
    output: Annotated[Path | None, typer.Option(help="A JSON file for `headstart worker --profile`.")] = None,
) -> None:
    """Measures this device with this model, as a worker with the same options would serve it."""
    from cli.profile import ProfileSettings, run_profile
    from workers.process import WorkerProcessSettings

    worker = WorkerProcessSettings(
        redis_url,
        model,
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
    )
    asyncio.run(run_profile(ProfileSettings(worker, seconds, output)))


@app.command()
def status(
    redis_url: RedisUrl,
    pool: Pool = "default",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Who is there and what waits."""
    from cli.status import show_status

    asyncio.run(show_status(redis_url, pool, as_json=as_json))


@app.command()
def scale(
    redis_url: RedisUrl,
    low: Annotated[int | None, typer.Option(min=0, help="Low-end workers; left out: as many as there are.")] = None,
    high: Annotated[int | None, typer.Option(min=0, help="High-end workers; left out: as many as there are.")] = None,
    kinds: Annotated[Path | None, typer.Option(help="TOML file: in [low] and [high], `devices`, `hosts`, `model`, worker options.")] = None,
    low_options: Annotated[str, typer.Option(help="Options of `headstart worker` for low-end ones, in one text.")] = "",
    high_options: Annotated[str, typer.Option(help="The same for high-end ones.")] = "",
    celery_url: CeleryUrl = "",
    pool: Pool = "default",
    drain_s: Annotated[
        float, typer.Option(min=0, help="How long requests of stopped workers may run on before they are handed back.")
    ] = 30.0,
    wait_s: Annotated[float, typer.Option(min=0, help="How long to wait until all have joined or left; 0: not at all.")] = 300.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Has the agents reach so many workers of each kind, and says what it did."""
    from cli.scale import ScaleSettings, run_scale
    from cli.scale_kinds import kinds_of

    targets = {name: count for name, count in (("low", low), ("high", high)) if count is not None}
    if not targets:
        raise ConfigError("nothing to scale: give --low, --high or both")
    launched = kinds_of(kinds, {"low": low_options, "high": high_options})
    settings = ScaleSettings(redis_url, celery_url, pool, launched, targets, drain_s, wait_s, dry_run)
    sys.exit(asyncio.run(run_scale(settings)))


@app.command()
def top(
    redis_url: RedisUrl,
    pool: Pool = "default",
    once: Annotated[bool, typer.Option("--once", help="One frame, and end.")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between frames.")] = 1.0,
) -> None:
    """Workers, roles, queue, rates and head starts, live."""
    from cli.top import run_top

    asyncio.run(run_top(redis_url, pool, once=once, every_s=every_s))


@app.command()
def new_key(
    name: Annotated[str, typer.Argument(help="Whose it is; for people.")],
    requests: Annotated[int, typer.Option(min=0, help="Requests a minute; 0: as the gateway says.")] = 0,
    tokens: Annotated[int, typer.Option(min=0, help="Tokens a minute, prompt and output together; 0: as the gateway says.")] = 0,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read a key that there is already from standard input.")] = False,
) -> None:
    """An API key: its line for --api-keys-file on stdout, the key itself, once, on stderr."""
    from gateway.api_keys import line_of, new_key, rule_of
    from shared.rates import Rates

    key = sys.stdin.readline().strip() if stdin else new_key()
    if not key or not name or name.startswith("#") or len(name.split()) != 1:
        raise ConfigError("new-key: give a NAME without spaces, and with --stdin a key on standard input")
    if not stdin:
        print(key, file=sys.stderr)
    print(line_of(rule_of(key, name, Rates(requests, tokens))))


@app.command()
def demo(
    model: Annotated[Path | None, typer.Option(help="Another model than the one in the repository.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts to send at once.")] = 8,
) -> None:
    """Starts everything, sends prompts, shows the answers streaming in and where each was cut."""
    from cli.demo import run_demo

    sys.exit(asyncio.run(run_demo(model, prompts)))


def main() -> None:
    """Entry point: every failure that a person can mend is one line on stderr and exit status 2."""
    die_with_parent()
    try:
        code = app(standalone_mode=False)
    except FabricUnavailable as error:
        _fail(f"{str(error).rstrip('.')}: start the server, or correct --redis-url (HEADSTART_REDIS_URL)")
    except HeadstartError as error:
        _fail(str(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        # typer keeps its usage errors to itself; this is the one thing they share.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        _fail(f"{_parameter(error)}{format_message()} (see `headstart {_command(error)}--help`)")
    sys.exit(code or 0)


def _parameter(error: Exception) -> str:
    """`--option: ` when the error knows its option and does not name it."""
    names = getattr(getattr(error, "param", None), "opts", None) or [""]
    return f"{names[0]}: " if names[0] and names[0] not in str(getattr(error, "format_message", str)()) else ""


def _command(error: Exception) -> str:
    name = getattr(getattr(error, "ctx", None), "info_name", None) or ""
    return f"{name} " if name in {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands} else ""


def _fail(message: str) -> None:
    print(f"{COMPLAINT}{' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
