"""Many SSE streams from one cheap client: a protocol per connection that only counts frames and notes when they came.

What was said is looked at afterwards, so that the load generator takes as little as it can of the machine that it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

FRAME_END = b"\n\n"
LAST_FRAME = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Stream(asyncio.Protocol):
    """One request on a connection of its own, and its answer as it came."""

    request: bytes
    done: asyncio.Future[None]
    received: list[tuple[float, bytes]] = field(default_factory=list)
    """`(CLOCK_MONOTONIC seconds, bytes)` of each read."""
    frames: int = 0
    transport: asyncio.Transport | None = None
    _tail: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.monotonic(), data))
        self.frames += data.count(FRAME_END) + (self._tail == b"\n" and data[:1] == b"\n")
        self._tail = data[-1:]
        if LAST_FRAME in data[-32:] and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the stream broke off: {exc}"))
            self.done.exception()  # Who does not await it is told by what is missing.

    def close(self) -> None:
        """Leaves, whether the answer has ended or not."""
        self.done.cancel()
        if self.transport is not None:
            self.transport.abort()

    # -- afterwards

    def text(self) -> bytes:
        """The answer's body: what came, out of its chunks."""
        _, _, rest = b"".join(data for _, data in self.received).partition(b"\r\n\r\n")
        pieces = []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size or b"0", 16)
            pieces.append(rest[:length])
            rest = rest[length + 2 :]
        return b"".join(pieces)

    def events(self) -> list[dict[str, Any]]:
        """The JSON of every frame that has one: not of pings, nor of the last."""
        lines = self.text().split(b"\n")
        return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]

    def arrivals(self) -> list[float]:
        """When each frame was complete, in order."""
        times: list[float] = []
        tail = b""
        for at, data in self.received:
            times += [at] * (data.count(FRAME_END) + (tail == b"\n" and data[:1] == b"\n"))
            tail = data[-1:]
        return times


async def open_stream(url: str, path: str, body: Mapping[str, object]) -> Stream:
    """Sends the request; its answer comes by itself."""
    loop = asyncio.get_running_loop()
    where, payload = urlsplit(url), json.dumps(body).encode()
    assert where.hostname is not None
    assert where.port is not None
    head = f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    stream = Stream(head.encode() + payload, loop.create_future())
    await loop.create_connection(lambda: stream, where.hostname, where.port)
    return stream
