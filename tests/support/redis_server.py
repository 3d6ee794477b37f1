"""Servers for tests: private, on loopback or a socket of their own, gone afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as SyncRedis

from shared.server import EmbeddedServer, free_port
from tests.support.waiting import eventually_now

SLOTS = 16384
NODES = 3


def system_server() -> Path:
    """The machine's own redis-server; tests that need it are skipped without it, and fail in CI."""
    found = shutil.which("redis-server")
    if found is None:
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up("redis-server is not installed: this backend is NOT tested")
    return Path(str(found))


@contextmanager
def valkey() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


@contextmanager
def redis() -> Iterator[str]:
    with EmbeddedServer(executable=system_server(), loopback=True) as server:
        yield server.url


@contextmanager
def cluster() -> Iterator[str]:
    """Three masters on loopback, each with a third of the slots; yields the address of one of them."""
    with ExitStack() as stack:
        password = "cluster-of-a-test"
        nodes = [stack.enter_context(_node(password)) for _ in range(NODES)]
        clients = [stack.enter_context(SyncRedis.from_url(node.url)) for node in nodes]
        _introduce(clients, [free_port_of(node) for node in nodes])
        eventually_now(lambda: all(_ask(client, "CLUSTER INFO")["cluster_state"] == "ok" for client in clients), 30.0)
        yield nodes[0].url


@contextmanager
def _node(password: str) -> Iterator[EmbeddedServer]:
    options = ("cluster-enabled yes", f"cluster-port {free_port()}", "cluster-node-timeout 5000", f"masterauth {password}")
    with EmbeddedServer(executable=system_server(), loopback=True, password=password, options=options) as server:
        yield server


def free_port_of(node: EmbeddedServer) -> tuple[int, int]:
    """Its port for clients and its port for the other nodes."""
    with SyncRedis.from_url(node.url) as client:
        return node.port, int(client.config_get("cluster-port")["cluster-port"])


def _introduce(clients: list[SyncRedis], ports: list[tuple[int, int]]) -> None:
    share = -(-SLOTS // len(clients))
    for at, client in enumerate(clients):
        _ask(client, "CLUSTER SET-CONFIG-EPOCH", at + 1)
        _ask(client, "CLUSTER ADDSLOTSRANGE", at * share, min(SLOTS, (at + 1) * share) - 1)
        for port, bus in ports[:at]:
            _ask(client, "CLUSTER MEET", "127.0.0.1", port, bus)


def _ask(client: SyncRedis, *command: str | int) -> Any:
    return client.execute_command(*command)  # type: ignore[no-untyped-call]
