"""One reader per process follows any number of logs.

Wake-ups bring the news, or say which logs have some; a slow poll covers lost ones. A log that stays silent, or was followed across a
cut, is verified: a server that lost its last second comes back with a shorter log and says nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

from gateway.fold import LogLost, shortened, unreadable, vanished
from gateway.tail import Consumer, Entries, Following, Tail
from shared.entry_ids import START
from shared.errors import DecodeError, FabricError
from shared.fabric import Grown, Record
from shared.log_check import Loss, loss_of
from shared.types import RequestId

log = logging.getLogger(__name__)

BACKOFF_S = 0.25
"""Pause after a failed read before the next try."""


class Logs(Protocol):
    """The part of the fabric that following needs."""

    async def read_log(self, request_id: RequestId, after: str = START, count: int = 0) -> Entries: ...

    async def read_logs(self, after: Mapping[RequestId, str]) -> dict[RequestId, Entries]: ...

    def wakeups(self, wanted: Container[RequestId]) -> AsyncIterator[tuple[Grown, ...]]: ...

    async def record(self, request_id: RequestId) -> Record | None: ...


class Follower:
    """Reads for everybody in this process: one batch at a time, of exactly the logs that may have news."""

    def __init__(self, logs: Logs, *, poll_s: float, verify_s: float, capacity: int) -> None:
        self._logs = logs
        self._poll_s = poll_s
        self._verify_s = verify_s
        self._capacity = capacity
        self._tails: dict[RequestId, Tail] = {}
        self._dirty: set[RequestId] = set()
        self._wake = asyncio.Event()
        self._next_poll = 0.0
        self._cut_off = False
        self.drops = 0

    def __repr__(self) -> str:
        return f"<Follower [{len(self._tails)} logs | {sum(len(tail.consumers) for tail in self._tails.values())} consumers]>"

    def __len__(self) -> int:
        return len(self._tails)

    @property
    def connected(self) -> bool:
        """Whether the last read reached the server."""
        return not self._cut_off

    @contextmanager
    def follow(self, request_id: RequestId) -> Iterator[Following]:
        """A place in the log, at its start."""
        tail = self._tails.get(request_id)
        following = Following(self._logs.read_log, request_id, behind=tail is not None and tail.count > 0, capacity=self._capacity)
        self.attach(request_id, following)
        try:
            yield following
        finally:
            following.close()
            self.drops += following.drops
            self.detach(request_id, following)

    def attach(self, request_id: RequestId, consumer: Consumer) -> None:
        tail = self._tails.get(request_id)
        if tail is None:
            tail = self._tails[request_id] = Tail(request_id, asyncio.get_running_loop().time())
        tail.consumers.append(consumer)
        self._stir(request_id)

    def detach(self, request_id: RequestId, consumer: Consumer) -> None:
        tail = self._tails.get(request_id)
        if tail is None or consumer not in tail.consumers:
            return
        tail.consumers.remove(consumer)
        if not tail.consumers:
            del self._tails[request_id]

    async def run(self) -> None:
        """Reads until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._read_on())
            tasks.create_task(self._verify_on())

    # -- wake-ups

    def _stir(self, request_id: RequestId) -> None:
        self._dirty.add(request_id)
        self._wake.set()

    async def _listen(self) -> None:
        while True:
            with suppress(FabricError):
                async for news in self._logs.wakeups(self._tails):
                    self._hear(news)
            await asyncio.sleep(BACKOFF_S)

    def _hear(self, news: tuple[Grown, ...]) -> None:
        """No news: the connection is new, and the server perhaps another one than before."""
        if not news:
            self._doubt()
            self._dirty.update(self._tails)
        now = asyncio.get_running_loop().time()
        for grown in news:
            tail = self._tails.get(grown.request_id)
            if tail is None:
                continue
            if grown.entries and tail.position == grown.after:
                tail.extend(grown.entries, now)
                self._drop_ended(tail)
            else:
                self._dirty.add(grown.request_id)
        if self._dirty:
            self._wake.set()

    # -- reading

    async def _read_on(self) -> None:
        while True:
            wanted = await self._wanted()
            try:
                if wanted:
                    self._deliver(await self._logs.read_logs(wanted))
            except DecodeError:
                await self._read_singly(wanted)
            except FabricError as error:
                self._lose_sight(error)
                await asyncio.sleep(BACKOFF_S)

    async def _read_singly(self, wanted: Mapping[RequestId, str]) -> None:
        """After a batch with bytes that are no entry: only the log that holds them may suffer."""
        for request_id, after in wanted.items():
            try:
                self._deliver({request_id: await self._logs.read_log(request_id, after)})
            except DecodeError as error:
                log.warning("an entry after %s in the log of %s is no message: %s", after, request_id, error)
                if tail := self._tails.get(request_id):
                    self._fail(tail, unreadable(request_id))
            except FabricError as error:
                self._lose_sight(error)

    async def _wanted(self) -> dict[RequestId, str]:
        """Where to go on in each log that may have news: those somebody pointed at, or, once per poll period, all silent ones."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(self._next_poll):
                await self._wake.wait()
        except TimeoutError:
            self._next_poll = loop.time() + self._poll_s
            # What was heard of since the last poll needs none.
            self._dirty.update(tail.request_id for tail in self._tails.values() if tail.heard < loop.time() - self._poll_s)
        self._wake.clear()
        stirred, self._dirty = self._dirty, set()
        tails = (self._tails[request_id] for request_id in stirred if request_id in self._tails)
        return {tail.request_id: tail.position for tail in tails}

    def _deliver(self, batch: dict[RequestId, Entries]) -> None:
        now = asyncio.get_running_loop().time()
        for request_id, entries in batch.items():
            if entries and (tail := self._tails.get(request_id)):
                tail.deliver(entries, now)
                self._drop_ended(tail)
        if self._cut_off:
            self._cut_off = False
            self._doubt()

    def _drop_ended(self, tail: Tail) -> None:
        """Nothing more will come: its consumers have or can read everything, and later ones start a tail of their own."""
        if tail.ended:
            self._tails.pop(tail.request_id, None)

    def _fail(self, tail: Tail, error: LogLost) -> None:
        log.error("%s", error, extra={"request": tail.request_id})
        tail.fail(error)
        self._drop_ended(tail)

    def _doubt(self) -> None:
        """Verify every log soon: a server that restarted may have lost its last entries."""
        long_ago = asyncio.get_running_loop().time() - self._verify_s
        for tail in self._tails.values():
            tail.heard = min(tail.heard, long_ago)

    def _lose_sight(self, error: FabricError) -> None:
        if not self._cut_off:
            log.warning("the message server cannot be reached, streams wait: %s", error)
        self._cut_off = True

    # -- verifying

    async def _verify_on(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._verify_s / 4))
            now = asyncio.get_running_loop().time()
            silent = [tail for tail in self._tails.values() if now - tail.heard >= self._verify_s]
            for tail in silent:
                with suppress(FabricError):
                    await self._verify(tail)

    async def _verify(self, tail: Tail) -> None:
        count, position = tail.count, tail.position
        # The record first: it closes after the log has ended, so a closed record and an open log cannot both be true.
        record = await self._logs.record(tail.request_id)
        entries = await self._logs.read_log(tail.request_id)
        if tail.ended:
            return
        error = _judge(tail.request_id, entries, count, position, record)
        if error is not None:
            self._fail(tail, error)
        tail.heard = asyncio.get_running_loop().time()


def _judge(request_id: RequestId, entries: Entries, count: int, position: str, record: Record | None) -> LogLost | None:
    loss = loss_of(entries, count, position, record)
    return None if loss is None else shortened(request_id) if loss is Loss.SHORTENED else vanished(request_id)
