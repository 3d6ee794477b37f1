"""One connection for any number of commands under way: written as they come, answered in order.

A pool of connections, one for each command that waits for its answer, costs a task's worth of work per command, and a burst of
requests outgrows it. Here a batch is one write and one future, and a process talks to each node through one connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import hiredis
from redis import exceptions as foreign
from redis.asyncio.connection import AbstractConnection

from shared.scripts import Arg

_NOTHING_YET: Final = object()
_pack = cast(Callable[[tuple[Arg, ...]], bytes], hiredis.pack_command)


@dataclass(slots=True)
class _Batch:
    """Commands that were written together, and the answers so far."""

    done: asyncio.Future[list[Any]]
    count: int
    answers: list[Any] = field(default_factory=list)


class Wire(asyncio.Protocol):
    """Takes over the socket of a connection that the client library has opened: address, TLS and credentials stay its business."""

    def __init__(self, connection: AbstractConnection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._replies = hiredis.Reader(replyError=connection._parser.parse_error, notEnoughData=_NOTHING_YET)
        self._batches: deque[_Batch] = deque()
        self._closed = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, connection: AbstractConnection) -> Wire:
        """Raises the client library's errors."""
        await connection.connect()  # type: ignore[no-untyped-call]
        assert connection._writer is not None
        transport = cast(asyncio.Transport, connection._writer.transport)
        wire = cls(connection, transport)
        transport.set_protocol(wire)
        return wire

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    async def run(self, commands: Sequence[tuple[Arg, ...]], timeout_s: float) -> list[Any]:
        """The answers in order; an error stands in its command's place. Raises `foreign.ConnectionError`, or `TimeoutError`."""
        batch = _Batch(asyncio.get_running_loop().create_future(), len(commands))
        self._batches.append(batch)
        self._transport.write(b"".join(map(_pack, commands)))
        try:
            async with asyncio.timeout(timeout_s):
                return await batch.done
        except TimeoutError:
            # Nobody could tell any more which answer is whose.
            self._transport.abort()
            raise

    def abort(self) -> None:
        """Cut at once: the next command opens another."""
        self._transport.abort()

    async def close(self) -> None:
        self._transport.close()
        await self._closed
        await self._connection.disconnect(nowait=True)

    # -- the socket's side

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        try:
            while (answer := self._replies.gets()) is not _NOTHING_YET:
                self._take(answer)
        except hiredis.HiredisError:
            self._transport.abort()

    def _take(self, answer: Any) -> None:
        batch = self._batches[0]
        batch.answers.append(answer)
        if len(batch.answers) == batch.count:
            self._batches.popleft()
            if not batch.done.done():
                batch.done.set_result(batch.answers)

    def connection_lost(self, exc: Exception | None) -> None:
        lost = foreign.ConnectionError(f"the connection was cut: {exc or 'by the server'}")
        for batch in self._batches:
            if not batch.done.done():
                batch.done.set_exception(lost)
        self._batches.clear()
        if not self._closed.done():
            self._closed.set_result(None)
