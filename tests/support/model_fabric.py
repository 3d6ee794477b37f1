"""The in-memory fabric behind the asynchronous protocol, for tests that need no server; it can lose its log and its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from typing import Any, Protocol, cast

from gateway.pools import GatewayFabric
from shared.clock import Clock, SystemClock
from shared.errors import FabricUnavailable
from shared.fabric import Grown, LoggedEntry, PoolStatus
from shared.fabric_model import FabricModel
from shared.rates import Allowance, Rates
from shared.request import TERMINAL
from shared.types import Phase, RequestId
from tests.support.bucket import Bucket
from tests.support.fake_owner import OwnerFabric


class BothEnds(GatewayFabric, OwnerFabric, Protocol):
    """The gateway's fabric and its fake owner's."""


class ModelFabric:
    """Every method of the model, awaited. `down` makes them raise `FabricUnavailable`; `deaf` loses every wake-up."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.model = FabricModel(clock or SystemClock())
        self.down = False
        self.deaf = False
        self.calls: list[str] = []
        self.retained: list[RequestId] = []
        self.buckets: dict[str, Bucket] = {}
        self._clock = clock or SystemClock()
        self._hints: list[asyncio.Queue[tuple[Grown, ...]]] = []

    def as_fabric(self) -> BothEnds:
        return cast(BothEnds, self)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.model, name)

        async def call(*args: Any, **options: Any) -> Any:
            self._reach(name)
            options.pop("block_ms", None)
            return method(*args, **options)

        return call

    async def read_logs(self, after: Mapping[RequestId, str]) -> dict[RequestId, tuple[LoggedEntry, ...]]:
        self._reach("read_logs")
        return {request_id: self.model.read_log(request_id, position) for request_id, position in after.items()}

    async def discard_log(self, request_id: RequestId) -> None:
        self._reach("discard_log")
        self.model._state.logs.pop(request_id, None)
        self.model._state.stories.pop(request_id, None)

    async def sweep(self, request_ids: Sequence[RequestId]) -> int:
        """Nothing here has a time to live, and nobody asks to keep anything: what has ended goes when it is said."""
        self._reach("sweep")
        state = self.model._state
        ended = [one for one in request_ids if (held := state.held.get(one)) is not None and held.record.phase in TERMINAL]
        for request_id in ended:
            del state.held[request_id]
            state.logs.pop(request_id, None)
        return len(ended)

    async def retain(self, request_ids: Sequence[RequestId]) -> None:
        self._reach("retain")
        self.retained.extend(request_ids)

    async def charge(self, caller: str, rates: Rates, requests: int, tokens: int) -> Allowance:
        self._reach("charge")
        return self.buckets.setdefault(caller, Bucket()).charge(rates, requests, tokens, self._clock.wall_ms())

    async def pool_status(self) -> PoolStatus:
        self._reach("pool_status")
        state = self.model._state
        phases = [held.record.phase for held in state.held.values() if held.record.phase not in TERMINAL]
        return PoolStatus(state.lease.candidate, len(phases), phases.count(Phase.QUEUED), state.load.predicted_wait_s)

    async def wakeups(self, wanted: Container[RequestId] | None = None) -> AsyncIterator[tuple[Grown, ...]]:
        self._reach("wakeups")
        hints: asyncio.Queue[tuple[Grown, ...]] = asyncio.Queue()
        self._hints.append(hints)
        try:
            while True:
                yield await hints.get()
        finally:
            self._hints.remove(hints)

    async def notify(self, request_ids: Sequence[RequestId]) -> None:
        if not self.deaf:
            for hints in self._hints:
                hints.put_nowait(tuple(map(Grown, request_ids)))

    def _reach(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise FabricUnavailable("the test took the server away")
