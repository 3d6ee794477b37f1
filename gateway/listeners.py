"""Who listens: tells the scheduler which requests have a client on this gateway, and that the gateway is alive.

A request that nobody in the background asked for is cancelled a grace period after its last listener left, so a change must
arrive but need not arrive at once: changes wait in a table (the newest one per request wins) and one task sends them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable
from typing import Protocol

from shared.errors import FabricError
from shared.messages import GatewayBeat, PoolEvent
from shared.types import GatewayId, RequestId

log = logging.getLogger(__name__)


class ListenerFabric(Protocol):
    async def set_listener(self, request_id: RequestId, gateway: GatewayId, listening: bool) -> None: ...

    async def tell_scheduler(self, event: PoolEvent) -> None: ...


class Listeners:
    """Counts this gateway's clients per request."""

    def __init__(self, fabric: ListenerFabric, gateway: GatewayId, beat_s: float) -> None:
        self._fabric = fabric
        self._gateway = gateway
        self._beat_s = beat_s
        self._clients: Counter[RequestId] = Counter()
        self._changes: dict[RequestId, bool] = {}
        self._news = asyncio.Event()
        self._beats = 0

    def __repr__(self) -> str:
        return f"<Listeners {self._gateway} [{len(self._clients)} requests | {len(self._changes)} unsent]>"

    def __len__(self) -> int:
        return len(self._clients)

    def enter(self, request_id: RequestId, *, known: bool = False) -> None:
        """A client follows this request. `known`: the submission already said so."""
        self._clients[request_id] += 1
        if self._clients[request_id] == 1 and not (known and request_id not in self._changes):
            self._change(request_id, listening=True)

    def leave(self, request_id: RequestId, *, ended: bool = False) -> None:
        """A client no longer does. `ended`: it has its answer, so nobody needs to be told."""
        self._clients[request_id] -= 1
        if self._clients[request_id] > 0:
            return
        del self._clients[request_id]
        if ended:
            self._changes.pop(request_id, None)
        else:
            self._change(request_id, listening=False)

    def disown(self, request_id: RequestId) -> None:
        """A submission named this gateway as the listener, but no client waits for it."""
        if request_id not in self._clients:
            self._change(request_id, listening=False)

    async def run(self) -> None:
        """Sends changes and beats until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_changes())
            tasks.create_task(self._beat())

    async def flush(self) -> None:
        """Sends what is unsent, once: the last act of a gateway."""
        while self._changes:
            request_id, listening = next(iter(self._changes.items()))
            del self._changes[request_id]
            await self._try(self._fabric.set_listener(request_id, self._gateway, listening))

    def _change(self, request_id: RequestId, *, listening: bool) -> None:
        self._changes.pop(request_id, None)
        self._changes[request_id] = listening
        self._news.set()

    async def _send_changes(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._changes:
                await self._send_one()

    async def _send_one(self) -> None:
        request_id, listening = next(iter(self._changes.items()))
        del self._changes[request_id]
        if not await self._try(self._fabric.set_listener(request_id, self._gateway, listening)):
            self._changes.setdefault(request_id, listening)
            await asyncio.sleep(self._beat_s)

    async def _beat(self) -> None:
        while True:
            self._beats += 1
            await self._try(self._fabric.tell_scheduler(GatewayBeat(self._gateway, self._beats)))
            await asyncio.sleep(self._beat_s)

    async def _try(self, write: Awaitable[None]) -> bool:
        try:
            await write
        except FabricError as error:
            log.debug("not told: %s", error)
            return False
        return True
