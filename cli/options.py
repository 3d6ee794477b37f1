"""Options that more than one command knows, and how their values are checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from shared.durability import FORMS
from shared.logs import FORMATS, LEVELS

DTYPES = ("auto", "float32", "bfloat16", "float16")


def one_of(*choices: str) -> Callable[[str], str]:
    """For `callback=`: a value that is not among the choices is refused with all of them."""

    def check(value: str) -> str:
        if value not in choices:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}.")
        return value

    return check


def device_name(value: str) -> str:
    """For `callback=`: whether the device is here is for torch to say, whether it could be one is not."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is no device: choose cpu, cuda or cuda:N.")
    return value


RedisUrl = Annotated[
    str,
    typer.Option(
        envvar="HEADSTART_REDIS_URL",
        help="The message server: redis://, rediss://, unix:// or redis+cluster://; with commas, a primary and its replicas.",
    ),
]
DurabilityText = Annotated[
    str,
    typer.Option(
        "--durability",
        envvar="HEADSTART_DURABILITY",
        help=f"What the message server must have done with a request before it is accepted, with a token before it is seen: {FORMS}.",
    ),
]
CeleryUrl = Annotated[
    str, typer.Option(envvar="HEADSTART_CELERY_URL", help="The broker of agents: one server, no cluster; by default the message server.")
]
PoolSecretFile = Annotated[
    Path | None,
    typer.Option(
        envvar="HEADSTART_POOL_SECRET_FILE",
        help="A file with the secret that all workers of the pool share (or HEADSTART_POOL_SECRET); it signs transfers of KV.",
    ),
]
Pool = Annotated[str, typer.Option(envvar="HEADSTART_POOL", help="Which pool of workers; one model each.")]
Model = Annotated[Path, typer.Option(envvar="HEADSTART_MODEL", help="Directory of a transformers model with its tokenizer.")]
ServedName = Annotated[str, typer.Option(help="The model's name in the API; by default its directory's.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: the checkpoint's own.", callback=one_of(*DTYPES))]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", callback=device_name)]
TokenBudget = Annotated[int, typer.Option(min=1, help="Tokens in one engine step.")]
MaxSequences = Annotated[int, typer.Option(min=1, help="Sequences held at once, owned or assisted.")]
BlockTokens = Annotated[int, typer.Option(min=1, max=64, help="Tokens in one KV block; divides 64.")]
KvMib = Annotated[int, typer.Option(min=1, help="Memory of the KV cache in MiB.")]
StagingMib = Annotated[int, typer.Option(min=1, help="Memory for transfers in flight in MiB.")]
Slowdown = Annotated[float, typer.Option(min=1.0, help="Makes every step this many times as long, to stand in for a slower device.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads of the model; 0: as torch decides.")]


class EngineDefaults(NamedTuple):
    """Of the options above: a profile is found again only by a worker with the same ones."""

    device: str = "cpu"
    dtype: str = "float32"
    token_budget: int = 512
    max_sequences: int = 32
    block_tokens: int = 16
    kv_mib: int = 512
    staging_mib: int = 128
    slowdown: float = 1.0
    threads: int = 0


ENGINE = EngineDefaults()
LogLevel = Annotated[str, typer.Option(envvar="HEADSTART_LOG_LEVEL", help="debug, info, warning or error.", callback=one_of(*LEVELS))]
LogFormat = Annotated[
    str,
    typer.Option(
        envvar="HEADSTART_LOG_FORMAT", help="json or text; by default text on a terminal, else json.", callback=one_of("", *FORMATS)
    ),
]
MetricsPort = Annotated[int | None, typer.Option(min=0, max=65535, help="Where to show Prometheus metrics; 0 takes a free port.")]
MetricsHost = Annotated[str, typer.Option(help="The metrics' address; they need no key, so beyond loopback anybody may read them.")]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option("--api-key", envvar="HEADSTART_API_KEYS", help="A key that callers may send; repeatable, in the environment with commas."),
]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="No keys, although --host lets other machines in.")]
ApiKeysFile = Annotated[Path | None, typer.Option(help="A file of API keys' digests and limits: `headstart new-key` writes its lines.")]
ExtraModels = Annotated[list[str] | None, typer.Option("--extra-model", help="One more model: NAME=DIRECTORY@POOL; repeatable.")]
RequestRate = Annotated[int, typer.Option("--requests-per-minute", min=0, help="Of each key without a rate of its own; 0: no limit.")]
TokenRate = Annotated[int, typer.Option("--tokens-per-minute", min=0, help="The same for tokens, prompt and output together.")]
EngineName = Annotated[
    str,
    typer.Option("--engine", help="torch, or fake: an engine without a model, for trying the fabric.", callback=one_of("torch", "fake")),
]
