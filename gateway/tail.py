"""One followed log in this process, and those who hear of its entries. No I/O here but a consumer's own reading."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.fold import LogLost
from shared.fabric import LoggedEntry
from shared.messages import LogEnd, LogEntry
from shared.types import RequestId

START = "0-0"
Entries = tuple[LoggedEntry, ...]
ReadLog = Callable[[RequestId, str], Awaitable[Entries]]


def order(entry_id: str) -> tuple[int, int]:
    """Entry ids compare as `(milliseconds, number)`."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


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
        if not fresh:
            return
        self.position, self.count, self.heard = fresh[-1].entry_id, self.count + len(fresh), now
        self.ended = self.ended or any(isinstance(entry.entry, LogEnd) for entry in fresh)
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
        self._buffer: deque[LoggedEntry] = deque()
        self._position = START
        self._error: LogLost | None = None
        self._news = asyncio.Event()
        self.drops = 0
        """How often the buffer was given up because the client was too slow."""

    def push(self, entries: Entries) -> None:
        if not self._behind and len(self._buffer) + len(entries) > self._capacity:
            self._buffer.clear()
            self._behind = True
            self.drops += 1
        if not self._behind:
            self._buffer.extend(entries)
        self._news.set()

    def fail(self, error: LogLost) -> None:
        self._error = error
        self._news.set()

    async def next(self, timeout_s: float) -> tuple[LogEntry, ...]:
        """The next entries, at least one, or none after `timeout_s` of silence. Raises `LogLost`."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    fresh = await self._catch_up() if self._behind else self._take(())
                    if fresh:
                        return fresh
                    if self._error is not None:
                        raise self._error
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return ()

    async def _catch_up(self) -> tuple[LogEntry, ...]:
        # From here on news are kept: what this read does not see is in the buffer afterwards, what both see is taken once.
        self._behind = False
        try:
            return self._take(await self._read(self._request_id, self._position))
        except BaseException:
            self._behind = True
            raise

    def _take(self, read: Entries) -> tuple[LogEntry, ...]:
        taken: list[LogEntry] = []
        for logged in (*read, *self._buffer):
            if order(logged.entry_id) > order(self._position):
                self._position = logged.entry_id
                taken.append(logged.entry)
        if not self._behind:
            self._buffer.clear()
        return tuple(taken)
