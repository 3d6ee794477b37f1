"""The parts of one gateway process, wired; the routes are thin over this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Protocol

from gateway.fold import Fold, Kind
from gateway.folds import fold_of
from gateway.follower import Follower, Logs
from gateway.intake import Intake
from gateway.listeners import Listeners
from gateway.metrics import Metrics
from gateway.session import Session, open_session
from gateway.settings import GatewaySettings
from gateway.tokenizer import Encoder
from shared.clock import Clock, SystemClock
from shared.errors import BadRequest, NotFound
from shared.fabric import Fabric, LogHead
from shared.types import RequestId

PREFIXES = tuple(kind.prefix for kind in Kind)


class GatewayFabric(Fabric, Logs, Protocol):
    """What the gateway needs of the fabric: its promises, batched reads of many logs, and wake-ups."""


class Gateway:
    """One gateway: stateless but for what its clients are looking at."""

    def __init__(self, settings: GatewaySettings, fabric: GatewayFabric, encoder: Encoder, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.settings = settings
        self.fabric = fabric
        self.started_ms = clock.wall_ms()
        self.draining = False
        self.metrics = Metrics(settings.served_model_name)
        self.follower = Follower(fabric, poll_s=settings.poll_s, verify_s=settings.verify_s, capacity=settings.buffer_entries)
        self.listeners = Listeners(fabric, settings.gateway_id, settings.beat_s)
        self.intake = Intake(settings, fabric, encoder, self.listeners, self.metrics, clock, self.follower.attach)
        self.metrics.followed.set_function(lambda: len(self.follower))
        self.metrics.drops.set_function(lambda: self.follower.drops)

    def __repr__(self) -> str:
        return f"<Gateway {self.settings.gateway_id} {self.follower!r} {self.listeners!r}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reads, beats and tells for as long as it is held."""
        tasks = [asyncio.create_task(self.follower.run()), asyncio.create_task(self.listeners.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.listeners.flush()

    def open(self, fold: Fold, *, fresh: bool = False) -> AbstractContextManager[Session]:
        """A client's session on a request; `fresh`: just accepted here, the submission named this gateway."""
        background = fold.api.background
        return open_session(fold, self.follower, None if background else self.listeners, known=fresh)

    async def find(self, public_id: str, owner_key: str, kind: Kind | None = None) -> LogHead:
        """The log's head of a request of this owner, by its id with or without prefix. Raises `NotFound`."""
        head = await self.fabric.head(bare_id(public_id))
        if head is None or head.owner_key != owner_key or (kind is not None and fold_of(head).api.kind is not kind):
            raise NotFound(f"No request with id '{public_id}': it never existed, has expired, or is not yours.", "id", "not_found")
        return head

    async def replay(self, head: LogHead) -> Fold:
        """The fold of what the log says now. Raises `LogLost`."""
        fold = fold_of(head)
        fold.opening()
        fold.feed_all(logged.entry for logged in await self.fabric.read_log(fold.request_id))
        return fold

    async def check_resume(self, head: LogHead, after: int) -> None:
        """A client cannot have seen an event that the log does not tell."""
        if after < 0:
            return
        fold = await self.replay(head)
        if after >= fold.next_number:
            raise BadRequest(
                f"Event {after} is not in the log, which tells events 0 to {fold.next_number - 1}: either the number is wrong, or the "
                "server lost the last entries that it had delivered.",
                "starting_after",
                "log_shortened",
            )

    async def cancel(self, head: LogHead) -> Fold:
        """Asks for the end and waits a little for it; a request that has ended is left as it is."""
        fold = await self.replay(head)
        if fold.ended:
            return fold
        await self.fabric.cancel(head.spec.request_id)
        with open_session(fold_of(head), self.follower, None) as session:
            await session.run_for(self.settings.cancel_wait_s)
        return session.fold


def bare_id(public_id: str) -> RequestId:
    """The request's own id: API prefixes taken off."""
    for prefix in PREFIXES:
        public_id = public_id.removeprefix(prefix)
    return RequestId(public_id)
