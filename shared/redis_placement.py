"""The scheduler's part: the lease, and the writes that name its epoch."""

from __future__ import annotations

from shared import scripts
from shared.codec import encode
from shared.fabric import PoolStatus, WriteStatus
from shared.line import Load
from shared.messages import Assign, AssistOrder, Control, Job
from shared.redis_log import status
from shared.redis_requests import RedisRequests
from shared.scripts import Call
from shared.types import RequestId, WorkerRef
from shared.versions import VERSION


class RedisPlacement(RedisRequests):
    """Every write is refused as `SUPERSEDED` once a newer leader has an epoch."""

    async def lead(self, candidate: str, ttl_s: float) -> int:
        """Epochs only grow; they are no small numbers."""
        return int(await self.connection.run(scripts.LEAD([self.keys.leader, self.keys.epoch], candidate, max(1, round(ttl_s * 1000)))))

    async def resign(self, candidate: str) -> None:
        await self.connection.run(scripts.RESIGN([self.keys.leader], candidate))

    async def place(self, epoch: int, worker: WorkerRef, job: Job) -> WriteStatus:
        call = self._assign(epoch, worker, job) if isinstance(job, Assign) else self._assist(epoch, worker, job)
        return status(await self.connection.run(call))

    def _assign(self, epoch: int, worker: WorkerRef, job: Assign) -> Call:
        names = [self.keys.epoch, self.keys.request(job.request_id), self.keys.waiting, self.keys.jobs(worker)]
        what = (job.request_id, job.attempt, _seq(job), str(worker), job.num_tokens, encode(job))
        settings = self.settings
        return scripts.ASSIGN(names, epoch, *what, settings.live_ttl_s, settings.worker_stream_max, settings.worker_ttl_s)

    def _assist(self, epoch: int, worker: WorkerRef, job: AssistOrder) -> Call:
        bounds = (self.settings.worker_stream_max, self.settings.worker_ttl_s)
        return scripts.ASSIST([self.keys.epoch, self.keys.jobs(worker)], epoch, _seq(job), encode(job), *bounds)

    async def command(self, epoch: int, worker: WorkerRef, message: Control) -> WriteStatus:
        bounds = (self.settings.worker_stream_max, self.settings.worker_ttl_s)
        return status(
            await self.connection.run(scripts.COMMAND([self.keys.epoch, self.keys.control(worker)], epoch, encode(message), *bounds))
        )

    async def begin_move(self, epoch: int, request_id: RequestId, attempt: int) -> WriteStatus:
        names = [self.keys.epoch, self.keys.request(request_id), self.keys.waiting]
        return status(await self.connection.run(scripts.BEGIN_MOVE(names, epoch, request_id, attempt, self.settings.live_ttl_s)))

    async def requeue(self, epoch: int, request_id: RequestId, attempt: int, num_tokens: int, *, crashed: bool) -> WriteStatus:
        names = [self.keys.epoch, self.keys.request(request_id), self.keys.waiting]
        what = (request_id, attempt, num_tokens, "1" if crashed else "0")
        return status(await self.connection.run(scripts.REQUEUE(names, epoch, *what, self.settings.live_ttl_s)))

    async def publish_load(
        self,
        epoch: int,
        waiting: int,
        max_waiting: int,
        predicted_wait_s: float,
        takes_per_s: float = 0.0,
        kv_takes_per_s: float = 0.0,
    ) -> WriteStatus:
        figures = (waiting, max_waiting, predicted_wait_s, takes_per_s, kv_takes_per_s, self.settings.load_ttl_s, VERSION)
        return status(await self.connection.run(scripts.PUBLISH_LOAD([self.keys.epoch, self.keys.load], epoch, *figures)))

    async def pool_status(self) -> PoolStatus:
        """Raises `FabricUnavailable`."""
        keys = self.keys
        leader = await self.connection.command("GET", keys.leader)
        live = await self.connection.command("XLEN", keys.submit)
        waiting = await self.connection.command("SCARD", keys.waiting)
        dead = await self.connection.command("XLEN", keys.dead)
        load = await self.load()
        return PoolStatus((leader or b"").decode(), int(live), int(waiting), load.predicted_wait_s if load else 0.0, int(dead))

    async def load(self) -> Load | None:
        """What the leader last published; None if no leader has for a while."""
        names = ("waiting", "max_waiting", "predicted_wait_s", "takes_per_s", "kv_takes_per_s", "version")
        waiting, bound, *seconds, version = await self.connection.command("HMGET", self.keys.load, *names)
        if waiting is None:
            return None
        wait_s, takes, kv_takes = (float(each or 0) for each in seconds)
        return Load(int(waiting), int(bound), wait_s, takes, kv_takes, int(version or 0))


def _seq(job: Job) -> str:
    return f"{job.seq.epoch}:{job.seq.number}"
