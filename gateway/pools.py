"""One model behind this gateway: its pool's fabric, its tokenizer, and what this process follows there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from gateway.fold import Fold
from gateway.folds import fold_of
from gateway.follower import Follower, Logs
from gateway.listeners import Listeners
from gateway.metrics import Metrics
from gateway.model_defaults import NO_DEFAULTS, ModelDefaults
from gateway.settings import GatewaySettings
from gateway.tokenizer import Encoder
from shared.errors import FabricError
from shared.fabric import Fabric, LogHead, PoolStatus
from shared.messages import WorkerInfo
from shared.rates import Allowance, Rates
from shared.types import RequestId

log = logging.getLogger(__name__)


class GatewayFabric(Fabric, Logs, Protocol):
    """What the gateway needs of the fabric: its promises, batched reads of many logs, wake-ups, and the care of stored answers."""

    async def discard_log(self, request_id: RequestId) -> None: ...

    async def retain(self, request_ids: Sequence[RequestId]) -> None: ...

    async def charge(self, caller: str, rates: Rates, requests: int, tokens: int) -> Allowance: ...

    async def pool_status(self) -> PoolStatus: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients name it, the pool that serves it, and its longest request."""

    name: str
    fabric: GatewayFabric
    encoder: Encoder
    model_tokens: int
    """Most tokens of prompt and output together."""
    defaults: ModelDefaults = NO_DEFAULTS


class ModelPool:
    """Follows the logs of one model's requests, tells its scheduler who listens, and knows how much its workers hold."""

    def __init__(self, served: ServedModel, settings: GatewaySettings, beside: Metrics | None) -> None:
        self.name = served.name
        self.fabric = served.fabric
        self.encoder = served.encoder
        self.model_tokens = served.model_tokens
        self.defaults = served.defaults
        self.members: tuple[WorkerInfo, ...] = ()
        """As of the last look."""
        self._watch_s = settings.watch_s
        self.metrics = Metrics(served.name, beside)
        self.follower = Follower(self.fabric, poll_s=settings.poll_s, verify_s=settings.verify_s, capacity=settings.buffer_entries)
        self.listeners = Listeners(self.fabric, settings.gateway_id, settings.beat_s)
        self.metrics.followed.set_function(lambda: len(self.follower))
        self.metrics.drops.set_function(lambda: self.follower.drops)

    def __repr__(self) -> str:
        return f"<ModelPool {self.name} {self.follower!r} {self.listeners!r}>"

    @property
    def room_tokens(self) -> int:
        """Tokens that the largest worker holds: workers may be unlike, and a request needs only one. 0: none is known yet."""
        return max((min(one.max_model_tokens, one.total_blocks * one.block_tokens) for one in self.members), default=0)

    def fold_of(self, head: LogHead) -> Fold:
        """The fold of a log of this model, at its start."""
        return fold_of(head, self.encoder)

    async def replay(self, head: LogHead) -> Fold:
        """The fold of what the log says now. Raises `LogLost`."""
        fold = self.fold_of(head)
        fold.opening()
        fold.feed_all(logged.entry for logged in await self.fabric.read_log(fold.request_id))
        return fold

    async def ready(self) -> str:
        """Why new requests would only wait; empty: a leader and a worker are there. Raises `FabricError`."""
        status, self.members = await self.fabric.pool_status(), await self.fabric.members()
        missing = [what for what, there in (("no scheduler leads", status.leader), ("no worker has joined", self.members)) if not there]
        return " and ".join(missing)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reads, beats, looks and tells for as long as it is held."""
        tasks = [asyncio.create_task(work) for work in (self.follower.run(), self.listeners.run(), self._look())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.listeners.flush()

    async def _look(self) -> None:
        while True:
            try:
                self.members = await self.fabric.members()
            except FabricError as error:
                log.debug("members of %s: %s", self.name, error)
            await asyncio.sleep(self._watch_s)
