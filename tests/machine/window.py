"""`python -m tests.machine.window`: what the default mode loses when the server's last second is really lost, and how that is told.

The server is killed and comes back with its append-only file as it was a moment before: at a power failure nobody promises more. Streams
are under way all the time; each is counted as going on, ended by a named error, or wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

import httpx2

from tests.machine.cluster import MODEL_NAME, Cluster
from tests.machine.door import Door, Lost, Wrong
from tests.machine.run import left_in
from tests.support.known_stream import WEIGHTS, KnownStream

SAMPLE_S = 0.05
GAP_S = 0.15
"""Between two arrivals: when the server dies some streams are near their end, some have just been accepted, some are still to come."""
NAMED = {"log_shortened": "ended by log_shortened", "request_lost": "ended by request_lost", ": 404 ": "unknown to the server (404)"}


class Tape:
    """The append-only file's size over the last seconds: where it is cut when its tail is lost."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: deque[tuple[float, int]] = deque(maxlen=400)

    @property
    def path(self) -> Path:
        """What is written to now."""
        return max((self._directory / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)

    async def watch(self) -> None:
        while True:
            self._sizes.append((time.monotonic(), self.path.stat().st_size))
            await asyncio.sleep(SAMPLE_S)

    def cut(self, window_s: float) -> int:
        """Takes back what was written in the last `window_s`; bytes."""
        path, now = self.path, time.monotonic()
        before = [size for at, size in self._sizes if at <= now - window_s]
        size = path.stat().st_size
        keep = before[-1] if before else 0
        os.truncate(path, keep)
        return size - keep


async def round_of(cluster: Cluster, tape: Tape, door: Door, numbers: range, window_s: float) -> tuple[int, Counter[str]]:
    """Lost bytes, and what became of the streams."""
    clients = [KnownStream(door, number, MODEL_NAME) for number in numbers]
    listening = [asyncio.create_task(_arrive(client, at * GAP_S)) for at, client in enumerate(clients)]
    await asyncio.gather(*(client.begun.wait() for client in clients[: len(clients) // 2]))
    pid = cluster.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(cluster.server.stop)
    lost = tape.cut(window_s)
    await asyncio.to_thread(cluster.server.start)
    ends = await asyncio.gather(*listening, return_exceptions=True)
    return lost, Counter(map(verdict, clients, ends))


async def _arrive(client: KnownStream, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await client.listen()


def verdict(client: KnownStream, end: BaseException | None) -> str:
    if not client.is_right:
        return "WRONG"
    if end is None:
        return "finished, whole and right" if client.is_whole else "WRONG"
    if isinstance(end, Wrong):
        return next((name for code, name in NAMED.items() if code in str(end)), "WRONG")
    if isinstance(end, Lost):
        return "LOST without a word"
    raise end


async def run(rounds: int, streams: int, window_s: float) -> int:
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as data:
        async with Cluster(WEIGHTS, Path(data), durable=False) as cluster, httpx2.AsyncClient(timeout=60.0) as http:
            tape, fabric = Tape(Path(data)), await cluster.fabric()
            watching = asyncio.create_task(tape.watch())
            for at in range(rounds):
                door = Door(cluster.system.urls, http)
                lost, ends = await round_of(cluster, tape, door, range(at * streams, (at + 1) * streams), window_s)
                print(f"tail {at + 1}: {lost / 1024:.0f} KiB of {window_s:g} s lost; {dict(sorted(ends.items()))}", flush=True)
                total += ends
            watching.cancel()
            leaks = await left_in(fabric, cluster)
            await fabric.disconnect()
    print(f"default mode, {rounds} tails lost under {streams} streams each: {dict(sorted(total.items()))}; leaks {leaks}")
    return 1 if leaks or total["WRONG"] or total["LOST without a word"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.machine.window", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often the server loses its tail")
    parser.add_argument("--streams", type=int, default=24, help="under way each time")
    parser.add_argument("--window-s", type=float, default=1.0, help="how much is lost: appendfsync everysec promises no less")
    options = parser.parse_args()
    return asyncio.run(run(options.rounds, options.streams, options.window_s))


if __name__ == "__main__":
    sys.exit(main())
