"""The `headstart` command: parses once, fails loudly in one line, hands frozen settings down."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import HeadstartError
from shared.processes import die_with_parent

app = typer.Typer(
    name="headstart",
    help="Serve large language models on mixed hardware: slow GPUs give every prompt a head start, fast GPUs finish it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

RedisUrl = Annotated[
    str, typer.Option(envvar="HEADSTART_REDIS_URL", help="The message server: redis://, rediss://, unix:// or redis+cluster://.")
]
Pool = Annotated[str, typer.Option(envvar="HEADSTART_POOL", help="Which pool of workers; one model each.")]
Model = Annotated[Path, typer.Option(envvar="HEADSTART_MODEL", help="Directory of a transformers model with its tokenizer.")]
LogLevel = Annotated[str, typer.Option(envvar="HEADSTART_LOG_LEVEL", help="debug, info, warning or error.")]
ServedName = Annotated[str, typer.Option(help="The model's name in the API; by default its directory's.")]


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
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    low_slowdown: Annotated[
        float, typer.Option(min=1.0, help="Where all workers would share one kind of device: how much slower the low-end ones are made.")
    ] = 3.0,
    log_level: LogLevel = "warning",
) -> None:
    """Everything on this machine: message server, scheduler, workers, gateway. Ctrl-C stops all."""
    from cli.up import UpSettings, run_up

    settings = UpSettings(
        model=model,
        low=low,
        high=high,
        host=host,
        port=port,
        redis_url=redis_url,
        pool=pool,
        served_model_name=served_model_name or model.name,
        dtype=dtype,
        low_slowdown=low_slowdown,
        log_level=log_level,
    )
    asyncio.run(run_up(settings))


@app.command()
def gateway(
    model: Model,
    redis_url: RedisUrl,
    pool: Pool = "default",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    served_model_name: ServedName = "",
    log_level: LogLevel = "info",
) -> None:
    """The HTTP door. Any number of them may run."""
    from gateway.process import serve
    from gateway.settings import GatewaySettings
    from shared import logs
    from shared.types import PoolId

    logs.configure("gateway", log_level)
    name = served_model_name or model.name
    asyncio.run(serve(GatewaySettings(redis_url, model, name, host=host, port=port, pool=PoolId(pool))))


@app.command()
def scheduler(
    redis_url: RedisUrl,
    pool: Pool = "default",
    policy: Annotated[str, typer.Option(envvar="HEADSTART_POLICY", help="Who gives head starts and who takes.")] = "take_when_free",
    cut: Annotated[int, typer.Option(min=0, help="For the policy fixed_cut: tokens of every head start.")] = 0,
    log_level: LogLevel = "info",
) -> None:
    """Places requests. One leads, others stand by."""
    from scheduler.process import SchedulerProcessSettings, serve
    from shared import logs

    logs.configure("scheduler", log_level)
    asyncio.run(serve(SchedulerProcessSettings(redis_url=redis_url, pool=pool, policy=policy, cut=cut)))


@app.command()
def worker(
    redis_url: RedisUrl,
    model: Model,
    engine: Annotated[str, typer.Option(help="torch, or fake: the engine without a model, for trying the fabric.")] = "torch",
    name: Annotated[str, typer.Option(help="The worker's id; by default host and process.")] = "",
    pool: Pool = "default",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    token_budget: Annotated[int, typer.Option(min=1, help="Tokens in one engine step.")] = 512,
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences held at once, owned or assisted.")] = 32,
    block_tokens: Annotated[int, typer.Option(help="Tokens in one KV block; divides 64.")] = 16,
    kv_mib: Annotated[int, typer.Option(min=1, help="Memory of the KV cache in MiB.")] = 512,
    staging_mib: Annotated[int, typer.Option(min=1, help="Memory for transfers in flight in MiB.")] = 128,
    slowdown: Annotated[
        float, typer.Option(min=1.0, help="Makes every step this many times as long, to stand in for a slower device.")
    ] = 1.0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the model; 0: as torch decides.")] = 0,
    fake_kv_bytes: Annotated[int, typer.Option(min=16, help="For the engine fake: KV bytes of a token, to size its transfers.")] = 16,
    log_level: LogLevel = "info",
) -> None:
    """One device: prefill, decode, head starts."""
    from shared import logs
    from workers.process import WorkerProcessSettings, serve

    logs.configure("worker", log_level)
    asyncio.run(
        serve(
            WorkerProcessSettings(
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
            )
        )
    )


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
    print(f"headstart: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
