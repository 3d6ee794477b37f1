"""One followed log in this process, and those who hear of its entries. No I/O here but a consumer's own reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.fold import LogLost, unreadable
from shared.entry_ids import START, order
from shared.errors import DecodeError, FabricUnavailable
from shared.fabric import LoggedEntry
from shared.messages import LogEnd, LogEntry
from shared.types import RequestId

Entries = tuple[LoggedEntry, ...]
ReadLog = Callable[[RequestId, str, int], Awaitable[Entries]]
"""Entries of a log behind one of them, at most so many."""

RETRY_S = 0.25
"""Pause after a read that found no server."""


class Consumer(Protocol):
    """Hears every entry of one log. Called from the reader: quick, and never raises."""

    def push(self, entries: Entries) -> None: ...

    def fail(self, error: LogLost) -> None: ...


@dataclass(slots=True)
class Tail:
    """How far the process has read one log, from its start."""

    request_id: RequestId
    heard: float
    """When it last had news or was verified, in the loop's seconds."""
    consumers: list[Consumer] = field(default_factory=list)
    position: str = START
    count: int = 0
    ended: bool = False

    def deliver(self, entries: Entries, now: float) -> None:
        fresh = tuple(entry for entry in entries if order(entry.entry_id) > order(self.position))
        if fresh:
            self.extend(fresh, now)

    def extend(self, fresh: Entries, now: float) -> None:
        """Entries that stand right behind the last one."""
        self.position, self.count, self.heard = fresh[-1].entry_id, self.count + len(fresh), now
        for logged in fresh:
            if type(logged.entry) is LogEnd:
                self.ended = True
        for consumer in tuple(self.consumers):
            consumer.push(fresh)

    def fail(self, error: LogLost) -> None:
        self.ended = True
        for consumer in tuple(self.consumers):
            consumer.fail(error)


class Following:
    """One client's place in a log: a bounded buffer, and the log itself for what did not fit or came before."""

    def __init__(self, read: ReadLog, request_id: RequestId, *, behind: bool, capacity: int) -> None:
        self._read = read
        self._request_id = request_id
        self._behind = behind
        self._capacity = capacity
        self._buffer: list[LoggedEntry] = []
        self._position = START
        self._overlaps = False
        """The buffer may hold entries that a read of the log has given already."""
        self._error: LogLost | None = None
        self._waiting: asyncio.Future[bool] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Goes off at `_until` or earlier; it outlives the waiting that set it."""
        self.drops = 0
        """How often the buffer was given up because the client was too slow."""

    def push(self, entries: Entries) -> None:
        if not self._behind:
            if len(self._buffer) + len(entries) > self._capacity:
                self._buffer.clear()
                self._behind = True
                self.drops += 1
            else:
                self._buffer += entries
        self._wake(news=True)

    def fail(self, error: LogLost) -> None:
        self._error = error
        self._wake(news=True)

    async def next(self, timeout_s: float) -> tuple[LogEntry, ...]:
        """The next entries, at least one, or none after `timeout_s` of silence. Raises `LogLost`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            fresh = await self._catch_up() if self._behind else self._take()
            if fresh:
                return fresh
            if self._error is not None:
                raise self._error
            # Still behind: the server is away, which is silence and not an end.
            left = until - loop.time()
            if not await self._wait(min(left, RETRY_S) if self._behind else left) and (not self._behind or left <= 0):
                return ()

    # -- waiting, without a task, a timeout context or a timer for each entry

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _wait(self, timeout_s: float) -> bool:
        """Whether there is news; false after `timeout_s`."""
        loop = asyncio.get_running_loop()
        self._waiting, self._until = loop.create_future(), loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._until:
            self.close()
            self._timer = loop.call_at(self._until, self._ring)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def _ring(self) -> None:
        """Most often there was news since the timer was set, and it is not time yet."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if loop.time() >= self._until:
            self._wake()
        elif self._waiting is not None:
            self._timer = loop.call_at(self._until, self._ring)

    def _wake(self, *, news: bool = False) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(news)

    # -- taking

    async def _catch_up(self) -> tuple[LogEntry, ...]:
        # From here on news are kept: what this read does not see is in the buffer afterwards, what both see is taken once.
        self._behind, self._overlaps = False, True
        try:
            read = await self._read(self._request_id, self._position, self._capacity)
        except FabricUnavailable:
            self._fall_behind()
            return ()
        except DecodeError:
            raise unreadable(self._request_id) from None
        except BaseException:
            self._fall_behind()
            raise
        if len(read) >= self._capacity:
            # One read brings no more, and there may be more: what has come meanwhile stands behind that.
            self._fall_behind()
            return self._fresh(read)
        return self._take(read)

    def _fall_behind(self) -> None:
        self._buffer.clear()
        self._behind = True

    def _take(self, read: Entries = ()) -> tuple[LogEntry, ...]:
        """What was read, then the buffer."""
        buffer, self._buffer = self._buffer, []
        if self._overlaps:
            fresh = self._fresh((*read, *buffer))
            self._overlaps = bool(read) or len(fresh) < len(buffer) or not buffer
            return fresh
        if not buffer:
            return ()
        self._position = buffer[-1].entry_id
        return tuple([logged.entry for logged in buffer])

    def _fresh(self, entries: Entries) -> tuple[LogEntry, ...]:
        """Those behind the position."""
        taken: list[LogEntry] = []
        for logged in entries:
            if order(logged.entry_id) > order(self._position):
                self._position = logged.entry_id
                taken.append(logged.entry)
        return tuple(taken)
