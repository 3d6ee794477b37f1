"""A tiny scheduler and worker in one: takes submissions, owns them, and says what its script tells it to say.

It lets the gateway be tested alone: texts, pauses, failures and cancellations are scripted, everything else is the real fabric.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from shared.clock import SystemClock
from shared.errors import FabricUnavailable
from shared.fabric import Fabric, WriteStatus
from shared.messages import Assign, LogEnd, LogTokens, Submission, WorkerInfo
from shared.profile import Profile
from shared.types import FinishReason, JobSeq, Phase, RequestId, RequestSpec, WorkerId, WorkerRef
from tests.support.waiting import eventually

WORKER = WorkerRef(WorkerId("fake"), "1")
PROFILE = Profile(0.01, 1e-4, 1e-8, 1e-3, 1e-6, 512)
MEMBER = WorkerInfo(WORKER, "tiny", b"", "cpu", "here", PROFILE, 16, 1024, 64, 512, 8192)
"""What the fake owner joins its pool as."""
LOGPROB = -0.5


@dataclass(frozen=True, slots=True)
class Say:
    """One log entry: `tokens` token ids (`ids`, if the test cares which) and the text that became safe with them."""

    text: str
    tokens: int = 1
    choice: int = 0
    ids: tuple[int, ...] = ()
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """Says nothing more until the gate opens."""

    gate: asyncio.Event


@dataclass(frozen=True, slots=True)
class End:
    """The terminal entry; with a finish reason it comes with one last empty token, as a worker's end of sequence does."""

    phase: Phase = Phase.FINISHED
    finish: FinishReason | None = FinishReason.STOP
    error: str = ""
    code: str = ""


Step = Say | Hold | End


class OwnerFabric(Fabric, Protocol):
    """What an owner needs beside the fabric's promises: to wake the readers of its logs."""

    async def notify(self, request_ids: Sequence[RequestId]) -> None: ...


Script = Callable[[RequestSpec], Sequence[Step]]


def count_up(spec: RequestSpec) -> Iterator[Step]:
    """`w0 w1 w2 ...`, as many as were asked for."""
    for index in range(spec.sampling.max_tokens - 1):
        yield Say(f"w{index} ")
    yield End(finish=FinishReason.LENGTH)


@dataclass
class FakeOwner:
    """`script` is asked once per request."""

    fabric: OwnerFabric
    script: Script = lambda spec: tuple(count_up(spec))
    member: WorkerInfo = MEMBER
    seen: list[Submission] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[FakeOwner]:
        reading = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            for task in (reading, *self._tasks):
                task.cancel()
            await asyncio.gather(reading, *self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        epoch = await self.fabric.lead("fake owner", 3600.0)
        await self.fabric.join(self.member, 3600.0)
        after = "0-0"
        while True:
            batch = await self._submissions(after)
            for entry_id, submission in batch:
                after = entry_id
                self.seen.append(submission)
                task = asyncio.create_task(self._own(epoch, len(self.seen), submission))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.002)

    async def _submissions(self, after: str) -> tuple[tuple[str, Submission], ...]:
        try:
            return await self.fabric.read_submissions(after, block_ms=20)
        except FabricUnavailable:
            return ()

    async def _own(self, epoch: int, number: int, submission: Submission) -> None:
        request_id = submission.request_id
        head = await self.fabric.head(request_id)
        assert head is not None, "accepted before its log was written"
        await self.fabric.place(epoch, WORKER, Assign(JobSeq(epoch, number), request_id, 1, submission.num_prompt))
        said = _Said(head.spec)
        for step in self.script(head.spec):
            if isinstance(step, Hold):
                await eventually(partial(self._may_go_on, request_id, step.gate), 60.0)
            if await self._cancelled(request_id):
                await self._end(said, End(Phase.CANCELLED, None))
                return
            if isinstance(step, Say):
                await self._append(request_id, said.tokens(step))
            elif isinstance(step, End):
                await self._end(said, step)

    async def _may_go_on(self, request_id: RequestId, gate: asyncio.Event) -> bool:
        return gate.is_set() or await self._cancelled(request_id)

    async def _cancelled(self, request_id: RequestId) -> bool:
        record = await self.fabric.record(request_id)
        return record is not None and record.cancel_asked

    async def _append(self, request_id: RequestId, tokens: LogTokens) -> None:
        status = await self.fabric.append(request_id, 1, (tokens,))
        assert status is WriteStatus.DONE, f"append of {request_id} was answered {status}"
        await self.fabric.notify((request_id,))

    async def _end(self, said: _Said, end: End) -> None:
        request_id = said.spec.request_id
        last = tuple(said.tokens(Say("", choice=choice), end.finish) for choice in range(said.spec.sampling.n)) if end.finish else ()
        await self.fabric.append(request_id, 1, last, LogEnd(end.phase, end.error, end.code, SystemClock().wall_ms()))
        await self.fabric.notify((request_id,))
        await self.fabric.close(request_id, 1, end.phase)


@dataclass
class _Said:
    """What a log holds so far."""

    spec: RequestSpec
    counts: Counter[int] = field(default_factory=Counter)

    def tokens(self, step: Say, finish: FinishReason | None = None) -> LogTokens:
        index = self.counts[step.choice]
        ids = step.ids or tuple(range(index, index + step.tokens))
        self.counts[step.choice] += len(ids)
        ranked = tuple(tuple((token + at, LOGPROB - at) for at in range(self.spec.sampling.top_logprobs)) for token in ids)
        logprobs = (LOGPROB,) * len(ids)
        now, ranked = SystemClock().wall_ms(), ranked if self.spec.sampling.top_logprobs else ()
        return LogTokens(step.choice, index, ids, step.text, logprobs, finish, now, ranked, step.cached)
