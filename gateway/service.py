"""The parts of one gateway process, wired; the routes are thin over this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.auth import Keyring
from gateway.bundle import BundleFold, part_id
from gateway.fold import ApiHead, Fold, Kind, vanished
from gateway.intake import Intake
from gateway.model_defaults import Body
from gateway.pools import GatewayFabric, ModelPool, ServedModel
from gateway.rate_limits import RateLimits
from gateway.session import Session, open_session
from gateway.settings import GatewaySettings
from shared.clock import Clock, SystemClock
from shared.errors import BadRequest, NotFound
from shared.fabric import LogHead
from shared.types import RequestId

__all__ = ["Found", "Gateway", "GatewayFabric", "bare_id"]
PREFIXES = tuple(kind.prefix for kind in Kind)


@dataclass(frozen=True, slots=True)
class Found:
    """A request, and the pool that has it. `heads`: one, or one for each prompt."""

    pool: ModelPool
    heads: tuple[LogHead, ...]

    @property
    def head(self) -> LogHead:
        return self.heads[0]

    @property
    def api(self) -> ApiHead:
        return ApiHead.from_json(self.head.api)

    def fold(self) -> Fold:
        """Everything that the answer is told by, at its start."""
        return BundleFold(self.heads, self.pool.encoder) if len(self.heads) > 1 else self.pool.fold_of(self.head)


class Gateway:
    """One gateway: stateless but for what its clients are looking at."""

    def __init__(self, settings: GatewaySettings, models: Sequence[ServedModel], clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.settings = settings
        self.keyring = Keyring(settings.rules, settings.rates)
        self.started_ms = clock.wall_ms()
        self.draining = False
        self.pools: dict[str, ModelPool] = {}
        for served in models:
            self.pools[served.name] = ModelPool(served, settings, self.default.metrics if self.pools else None)
        self.rate_limits = RateLimits(self.default.fabric)
        self._intakes = {name: Intake(settings, pool, clock, self.rate_limits) for name, pool in self.pools.items()}

    def __repr__(self) -> str:
        return f"<Gateway {self.settings.gateway_id} {list(self.pools.values())!r}>"

    @property
    def default(self) -> ModelPool:
        """The first model's."""
        return next(iter(self.pools.values()))

    def pool_of(self, model: str) -> ModelPool:
        """Raises `NotFound` with the models that there are."""
        if model not in self.pools:
            there = ", ".join(f"'{name}'" for name in self.pools)
            raise NotFound(f"The model '{model}' does not exist: this server has {there}.", "model", "model_not_found")
        return self.pools[model]

    def with_defaults(self, body: Body) -> Body:
        """`body`, with what its model recommends where it says nothing. Raises `NotFound`."""
        return self.pool_of(body.model).defaults.fill(body)

    def intake_of(self, model: str) -> Intake:
        """Raises `NotFound`."""
        return self._intakes[self.pool_of(model).name]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Every pool's tasks, for as long as it is held."""
        async with AsyncExitStack() as stack:
            for pool in self.pools.values():
                await stack.enter_async_context(pool.running())
            yield

    def open(self, pool: ModelPool, fold: Fold, *, fresh: bool = False) -> AbstractContextManager[Session]:
        """A client's session on a request; `fresh`: just accepted here, the submission named this gateway."""
        listeners = None if fold.api.background else pool.listeners
        return open_session(fold, pool.follower, listeners, known=fresh)

    async def find(self, public_id: str, owner_key: str, kind: Kind | None = None, param: str = "id") -> Found:
        """A request of this owner, by its id with or without prefix. Raises `NotFound`."""
        request_id = bare_id(public_id)
        for pool in self.pools.values():
            head = await pool.fabric.head(request_id)
            if head is not None and head.owner_key == owner_key and kind in (None, ApiHead.from_json(head.api).kind):
                return await self.whole(pool, head)
        raise NotFound(f"No request with id '{public_id}': it never existed, has expired, or is not yours.", param, "not_found")

    async def whole(self, pool: ModelPool, head: LogHead) -> Found:
        """With the other parts' heads, if it has some. Raises `LogLost`."""
        first, parts = head.spec.request_id, ApiHead.from_json(head.api)
        others = range(1, parts.parts) if not parts.part else ()
        heads = [head]
        for part in others:
            other = await pool.fabric.head(part_id(first, part))
            if other is None:
                raise vanished(part_id(first, part))
            heads.append(other)
        return Found(pool, tuple(heads))

    async def replay(self, found: Found) -> Fold:
        """The fold of what the log says now. Raises `LogLost`."""
        fold = found.fold()
        if not isinstance(fold, BundleFold):
            return await found.pool.replay(found.head)
        for part in fold.parts:
            fold.opening_of(part)
            fold.feed_of(part, [logged.entry for logged in await found.pool.fabric.read_log(part.request_id)])
            if not part.ended or fold.failed:
                return fold
        fold.closing()
        return fold

    async def check_resume(self, found: Found, after: int) -> None:
        """A client cannot have seen an event that the log does not tell."""
        if after < 0:
            return
        fold = await self.replay(found)
        if after >= fold.next_number:
            raise BadRequest(
                f"'starting_after' is {after}, but the log tells events 0 to {fold.next_number - 1}: either the number is wrong, or the "
                "server lost the last entries that it had delivered.",
                "starting_after",
                "log_shortened",
            )

    async def cancel(self, found: Found) -> Fold:
        """Asks for the end and waits a little for it; a request that has ended is left as it is."""
        fold = await self.replay(found)
        if fold.ended:
            return fold
        for request_id in fold.request_ids:
            await found.pool.fabric.cancel(request_id)
        with open_session(found.fold(), found.pool.follower, None) as session:
            await session.run_for(self.settings.cancel_wait_s)
        return session.fold


def bare_id(public_id: str) -> RequestId:
    """The request's own id: API prefixes taken off."""
    for prefix in PREFIXES:
        public_id = public_id.removeprefix(prefix)
    return RequestId(public_id)
