"""The in-memory fabric behind the asynchronous protocol, for tests that need no server; it can lose its log and its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from gateway.service import GatewayFabric
from shared.clock import Clock, SystemClock
from shared.errors import FabricUnavailable
from shared.fabric import LoggedEntry
from shared.fabric_model import FabricModel
from shared.types import RequestId
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
        self._hints: list[asyncio.Queue[tuple[RequestId, ...]]] = []

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

    async def wakeups(self) -> AsyncIterator[tuple[RequestId, ...]]:
        self._reach("wakeups")
        hints: asyncio.Queue[tuple[RequestId, ...]] = asyncio.Queue()
        self._hints.append(hints)
        try:
            while True:
                yield await hints.get()
        finally:
            self._hints.remove(hints)

    async def notify(self, request_ids: Sequence[RequestId]) -> None:
        if not self.deaf:
            for hints in self._hints:
                hints.put_nowait(tuple(request_ids))

    def _reach(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise FabricUnavailable("the test took the server away")
