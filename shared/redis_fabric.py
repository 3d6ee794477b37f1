"""The fabric on a Redis-compatible server: see `shared.fabric.Fabric` for what each method promises.

Each write is one script of `shared/lua`; the parts are `redis_log` (logs), `redis_requests` (gateway), `redis_placement`
(scheduler) and, here, the pool's streams and its members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from shared import scripts
from shared.codec import CONTROL, JOBS, POOL_EVENTS, decode, encode
from shared.connection import FabricConnection, open_connection
from shared.entry_ids import START
from shared.errors import ConfigError, DecodeError, UnknownVersion
from shared.fabric import Fabric
from shared.fabric_settings import FabricSettings
from shared.keys import Keys
from shared.messages import Control, Job, PoolEvent, Report, Submission, WorkerInfo
from shared.redis_placement import RedisPlacement
from shared.types import PoolId, WorkerRef
from shared.versions import mismatch, readable

DEFAULT_POOL = PoolId("default")


class RedisFabric(RedisPlacement):
    """One pool on one server or cluster. Make it with `connect`, or over an open `FabricConnection`."""

    def __init__(self, connection: FabricConnection, keys: Keys, settings: FabricSettings) -> None:
        super().__init__(connection, keys, settings)
        self._joined: dict[WorkerRef, tuple[WorkerInfo, float]] = {}
        """Who joined through this object, and for how long at a time."""

    @classmethod
    async def connect(cls, url: str, pool: PoolId = DEFAULT_POOL, settings: FabricSettings | None = None) -> Self:
        """Raises `FabricUnavailable` if the server cannot be reached, `ConfigError` if it would not do."""
        settings = settings or FabricSettings()
        return cls(await open_connection(url, settings), Keys(pool), settings)

    async def disconnect(self) -> None:
        await self.connection.close()

    def __repr__(self) -> str:
        return f"<RedisFabric {self.keys.pool} {self.connection!r}>"

    async def server_life(self) -> str:
        return await self.connection.server_life()

    async def tell_scheduler(self, event: PoolEvent) -> None:
        if isinstance(event, Report):
            await self._report(event)
        else:
            bounds = (self.settings.events_max, self.settings.events_ttl_s)
            await self.connection.run(scripts.TELL([self.keys.events], encode(event), *bounds))

    async def _report(self, report: Report) -> None:
        """A report keeps its worker a member; one that was forgotten (a new server, a long stall) joins again."""
        keys, ref = self.keys, report.ref
        names = [keys.events, keys.member(ref), keys.members, keys.jobs(ref), keys.control(ref)]
        bounds = (self.settings.events_max, self.settings.events_ttl_s, self.settings.worker_ttl_s)
        is_member = await self.connection.run(scripts.REPORT(names, encode(report), *bounds))
        if not is_member and ref in self._joined:
            await self.join(*self._joined[ref])

    async def tell_worker(self, worker: WorkerRef, message: Control) -> None:
        bounds = (self.settings.worker_stream_max, self.settings.worker_ttl_s)
        await self.connection.run(scripts.TELL([self.keys.control(worker)], encode(message), *bounds))

    async def read_submissions(self, after: str, *, count: int = 100, block_ms: int = 0) -> tuple[tuple[str, Submission], ...]:
        return await self._read_stream(self.keys.submit, after, count, block_ms, (Submission,))

    async def read_events(self, after: str, *, count: int = 500, block_ms: int = 0) -> tuple[tuple[str, PoolEvent], ...]:
        return await self._read_stream(self.keys.events, after, count, block_ms, POOL_EVENTS)

    async def newest_event(self) -> str:
        return await self._newest(self.keys.events)

    async def read_jobs(self, worker: WorkerRef, after: str, *, count: int = 16, block_ms: int = 0) -> tuple[tuple[str, Job], ...]:
        return await self._read_stream(self.keys.jobs(worker), after, count, block_ms, JOBS)

    async def read_control(self, worker: WorkerRef, after: str, *, count: int = 100, block_ms: int = 0) -> tuple[tuple[str, Control], ...]:
        return await self._read_stream(self.keys.control(worker), after, count, block_ms, CONTROL)

    async def newest(self, worker: WorkerRef) -> tuple[str, str]:
        return await self._newest(self.keys.jobs(worker)), await self._newest(self.keys.control(worker))

    async def _newest(self, stream: str) -> str:
        entries = await self.connection.command("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return entries[0][0].decode() if entries else START

    async def join(self, info: WorkerInfo, ttl_s: float) -> None:
        keys, ref = self.keys, info.ref
        names = [keys.member(ref), keys.members, keys.jobs(ref), keys.control(ref)]
        await self.connection.run(scripts.JOIN(names, str(ref), encode(info), max(1, round(ttl_s * 1000)), self.settings.worker_ttl_s))
        self._joined[ref] = (info, ttl_s)

    async def leave(self, worker: WorkerRef) -> None:
        keys = self.keys
        self._joined.pop(worker, None)
        names = [keys.member(worker), keys.members, keys.jobs(worker), keys.control(worker)]
        await self.connection.run(scripts.LEAVE(names, str(worker)))

    async def members(self) -> tuple[WorkerInfo, ...]:
        """In order of their names; who cannot be read by this version is none for it."""
        infos = await self.connection.run(scripts.MEMBERS([self.keys.members], self.keys.prefix + "member:"))
        readable = (member for info in infos for member in self._readable(self.keys.members, info, (WorkerInfo,)))
        return tuple(sorted(readable, key=lambda info: info.ref))

    async def check_versions(self) -> None:
        """For a process that is about to join: raises `ConfigError` if the leader or a member would not understand it, or it them."""
        load = await self.load()
        if load and load.version and not readable(load.version):
            raise ConfigError(f"pool {self.keys.pool} is led by a scheduler of {mismatch(load.version)}")
        for info in await self.connection.run(scripts.MEMBERS([self.keys.members], self.keys.prefix + "member:")):
            try:
                decode(info, WorkerInfo)
            except UnknownVersion as error:
                raise ConfigError(f"pool {self.keys.pool} has a worker of {mismatch(error.version)}") from error
            except DecodeError:
                continue


connect = RedisFabric.connect


if TYPE_CHECKING:

    def _keeps_the_promise(fabric: RedisFabric) -> Fabric:
        return fabric
