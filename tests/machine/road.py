"""The road to the message server: passes bytes on, and at a word cuts connections, stops them, or makes everything late.

A process of its own (`python -m tests.machine.road HOST PORT`), so that no client's work delays it; told what to do by lines on its
standard input: `cut SHARE SECONDS`, `hold SECONDS`, `late BY_S SECONDS`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

READ_BYTES = 1 << 16


@dataclass(eq=False, slots=True)
class _Way:
    """One connection, both ends of it."""

    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]

    def cut(self) -> None:
        for end in self.ends:
            end.transport.abort()


@dataclass
class Road:
    """Every connection to `host`:`port` that goes by it. Seeded: which of them a partial cut meets is drawn."""

    host: str
    port: int
    random: Random = field(default_factory=lambda: Random(1))
    late_s: float = 0.0
    _ways: dict[_Way, None] = field(default_factory=dict)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    @property
    def busy(self) -> bool:
        """Somebody is on it."""
        return bool(self._ways)

    async def serve(self) -> asyncio.Server:
        self._open.set()
        return await asyncio.start_server(self._pass, "127.0.0.1", 0)

    async def obey(self, word: str, *figures: float) -> None:
        match word, figures:
            case "cut", (share, seconds):
                await self.cut(share, seconds)
            case "hold", (seconds,):
                await self.hold(seconds)
            case "late", (by_s, seconds):
                await self.late(by_s, seconds)
            case _:
                raise ValueError(f"no order: {word} {figures}")

    async def cut(self, share: float, seconds: float) -> None:
        """Connections break, this share of them; where all do, new ones break too until the time is over."""
        self._closed = share >= 1.0
        for way in list(self._ways):
            if self.random.random() < share:
                way.cut()
        await asyncio.sleep(seconds)
        self._closed = False

    async def hold(self, seconds: float) -> None:
        """Nothing arrives, and nobody is told: what was sent meanwhile arrives afterwards."""
        self._open.clear()
        await asyncio.sleep(seconds)
        self._open.set()

    async def late(self, by_s: float, seconds: float) -> None:
        """Everything takes so much longer, in its order."""
        self.late_s = by_s
        await asyncio.sleep(seconds)
        self.late_s = 0.0

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.transport.abort()
            return
        way = _Way((writer, back))
        self._ways[way] = None
        try:
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        finally:
            way.cut()
            await asyncio.gather(*(end.wait_closed() for end in way.ends), return_exceptions=True)
            del self._ways[way]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(READ_BYTES):
                await self._open.wait()
                if self.late_s:
                    await asyncio.sleep(self.late_s)
                writer.write(data)
                await writer.drain()
            writer.close()
        except OSError:
            writer.transport.abort()


@dataclass(slots=True)
class RoadProcess:
    """The road, driven from another process."""

    process: asyncio.subprocess.Process
    port: int

    @classmethod
    @asynccontextmanager
    async def to(cls, host: str, port: int) -> AsyncIterator[RoadProcess]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", __spec__.name, host, str(port), stdin=pipe, stdout=pipe)
        try:
            assert process.stdout is not None
            yield cls(process, int(await process.stdout.readline()))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def tell(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        await self.process.stdin.drain()


async def main() -> None:
    """Ends with its standard input."""
    road = Road(sys.argv[1], int(sys.argv[2]))
    server = await road.serve()
    print(server.sockets[0].getsockname()[1], flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    under_way: set[asyncio.Task[None]] = set()
    while line := await orders.readline():
        word, *figures = line.decode().split()
        task = asyncio.create_task(road.obey(word, *map(float, figures)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


if __name__ == "__main__":
    asyncio.run(main())
