"""A primary and its replica on loopback, for tests of what outlives a server."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from shared.keys import MARK_KEY
from shared.server import EmbeddedServer
from tests.support.waiting import eventually_now

PASSWORD = secrets.token_hex(8)
"""Of this process: a replica of another run's primary would be a silent mistake."""
_PROMPT = ("repl-diskless-sync-delay 0", f"masterauth {PASSWORD}")


def lone(executable: Path | None = None) -> EmbeddedServer:
    """One that can be a primary."""
    return EmbeddedServer(executable=executable, loopback=True, password=PASSWORD, options=_PROMPT)


def replica_of(primary: EmbeddedServer, executable: Path | None = None) -> EmbeddedServer:
    """One that follows `primary` from its start."""
    options = (*_PROMPT, f"replicaof 127.0.0.1 {primary.port}")
    return EmbeddedServer(executable=executable, loopback=True, password=PASSWORD, options=options)


@contextmanager
def pair(executable: Path | None = None) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """The replica has all that the primary has."""
    with lone(executable) as primary, replica_of(primary, executable) as replica:
        until_followed(primary)
        yield primary, replica


def until_followed(primary: EmbeddedServer) -> None:
    """By one replica that has all that was written so far."""
    with Redis.from_url(primary.url, single_connection_client=True) as client:

        def has_all() -> bool:
            client.set(MARK_KEY, "", ex=60)
            return bool(client.execute_command("WAIT", 1, 100))

        eventually_now(has_all)


def ask(server: EmbeddedServer, *command: str | int) -> Any:
    with Redis.from_url(server.url) as client:
        return client.execute_command(*command)


def calls_of(server: EmbeddedServer, command: str) -> int:
    """How often the server has run a command."""
    with Redis.from_url(server.url) as client:
        stats: dict[str, dict[str, int]] = client.info("commandstats")
    return stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]


@contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """It neither answers nor acknowledges, and nothing of it is lost."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def kill(server: EmbeddedServer) -> None:
    """Without a word: what was not yet on its way is gone."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
