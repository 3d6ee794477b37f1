"""A whole system on a primary and its replica: one is killed in mid-stream, the other promoted, and clients see no more than a pause."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from cli.system import System, SystemPlan, WorkerPlan
from shared.durability import Durability
from tests.machine.door import Door
from tests.support.key_check import looked_into, misplaced_keys
from tests.support.known_stream import WEIGHTS, KnownStream
from tests.support.replicas import ask, kill, pair, replica_of, until_followed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("failover")]

STREAMS = 8


async def test_streams_go_on_when_the_primary_dies_and_its_replica_is_promoted() -> None:
    options = ("--engine", "fake", "--kv-mib", "8", "--slowdown", "3")
    with pair() as (primary, replica):
        url = f"{primary.url},{replica.url}"
        workers = tuple(WorkerPlan(name, options) for name in ("one", "two"))
        plan = SystemPlan(WEIGHTS, "demo", workers, url, durability=Durability.parse("wait-replicas=1"), echo=False)
        async with System(plan) as system, httpx2.AsyncClient(timeout=60.0) as http:
            clients = [KnownStream(Door(system.urls, http), number, "demo") for number in range(STREAMS)]
            answers = asyncio.gather(*(client.listen() for client in clients))
            async with asyncio.timeout(200):
                await asyncio.gather(*(client.begun.wait() for client in clients))
                kill(primary)
                ask(replica, "REPLICAOF", "NO", "ONE")
                with replica_of(replica):
                    until_followed(replica)
                    await answers
                    with looked_into(replica.url) as server:
                        assert not misplaced_keys(server.client)
            assert all(client.is_whole for client in clients)
