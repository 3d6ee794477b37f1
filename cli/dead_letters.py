"""`headstart dead-letters`: requests that too many crashes ended; look, replay or drop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cli.options import Pool, RedisUrl
from shared.clock import SystemClock
from shared.errors import ConfigError
from shared.processes import run
from shared.redis_dead_letters import DeadLetter, DeadLetters
from shared.redis_fabric import RedisFabric
from shared.types import PoolId, RequestId

app = typer.Typer(no_args_is_help=True, help="Requests that too many crashes ended: list, replay or drop them.")
Ids = Annotated[list[str] | None, typer.Argument(help="Request ids, as `list` shows them.")]
All = Annotated[bool, typer.Option("--all", help="Every one there is, in place of ids.")]


@app.command("list")
def list_(redis_url: RedisUrl, pool: Pool = "default") -> None:
    """Shows them, the oldest first."""
    run(show_letters(redis_url, pool))


@app.command()
def replay(redis_url: RedisUrl, ids: Ids = None, every: All = False, pool: Pool = "default") -> None:
    """Submits them anew, in the background, for the same callers; prints their new ids."""
    run(replay_letters(redis_url, pool, _named(ids, every)))


@app.command()
def drop(redis_url: RedisUrl, ids: Ids = None, every: All = False, pool: Pool = "default") -> None:
    """Forgets them."""
    run(drop_letters(redis_url, pool, _named(ids, every)))


def _named(ids: list[str] | None, every: bool) -> list[str]:
    """Nobody drops all of them by leaving something out. Empty: all."""
    if bool(ids) == every:
        raise ConfigError("name the requests, as `headstart dead-letters list` shows them, or say --all")
    return ids or []


async def show_letters(redis_url: str, pool: str) -> None:
    async with _opened(redis_url, pool) as letters:
        found = await letters.all()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("request", "given up", "prompt", "output", "choices"):
        table.add_column(name, no_wrap=name == "request", justify="left" if name in ("request", "given up") else "right")
    for letter in found:
        at, asked = datetime.fromtimestamp(letter.at_ms / 1000, UTC), letter.submission
        table.add_row(letter.request_id, f"{at:%Y-%m-%d %H:%M:%S}Z", str(asked.num_prompt), str(asked.max_tokens), str(asked.num_choices))
    Console().print(table if found else "no dead letters")


async def replay_letters(redis_url: str, pool: str, ids: list[str]) -> None:
    async with _opened(redis_url, pool) as letters:
        for letter in await _chosen(letters, ids):
            print(f"{letter.request_id} -> {await letters.replay(letter)}")


async def drop_letters(redis_url: str, pool: str, ids: list[str]) -> None:
    async with _opened(redis_url, pool) as letters:
        for letter in await _chosen(letters, ids):
            await letters.drop(letter)
            print(f"{letter.request_id} dropped")


async def _chosen(letters: DeadLetters, ids: list[str]) -> list[DeadLetter]:
    return [await letters.find(RequestId(one)) for one in ids] if ids else list(await letters.all())


@asynccontextmanager
async def _opened(redis_url: str, pool: str) -> AsyncIterator[DeadLetters]:
    fabric = await RedisFabric.connect(redis_url, PoolId(pool))
    try:
        yield DeadLetters(fabric, SystemClock())
    finally:
        await fabric.disconnect()
