"""What the server acknowledged and no longer knows after its death: counted by writes that nobody else makes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

KEY = "machine:probe"
PAUSE_S = 0.005
EXPIRY_S = 86_400
"""Beyond every jump of the clock."""
KEPT = 10_000
"""Acknowledged writes whose time is remembered: far more than a server can lose."""


@dataclass(slots=True)
class Probe:
    """Counts up on the server, as fast as it answers, and looks after each silence how far the count has fallen back."""

    written: int = 0
    deaths: int = 0
    """Silences of the server after which it answered again."""
    lost: int = 0
    window_s: float = 0.0
    """The longest time from the first lost write to the last one that was acknowledged."""
    stopping: bool = False
    """Asked to end: a cancellation could be swallowed by the client library in the middle of a call."""
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    async def run(self, url: str) -> None:
        """Until `stopping`; leaves no key behind."""
        client = Redis.from_url(url, socket_timeout=2.0, retry=Retry(NoBackoff(), 0))
        try:
            while not self.stopping:
                await self._write(client)
                await asyncio.sleep(PAUSE_S)
        finally:
            await client.delete(KEY)
            await client.aclose()

    async def _write(self, client: Redis) -> None:
        number = self.written + 1
        try:
            await client.set(KEY, number, ex=EXPIRY_S)
        except (RedisError, OSError):
            await self._look(client)
            return
        self.written = number
        self._times.append(time.monotonic())

    async def _look(self, client: Redis) -> None:
        """It may know the write whose answer never came."""
        while not self.stopping:
            try:
                self.note(int(await client.get(KEY) or 0))
                return
            except (RedisError, OSError):
                await asyncio.sleep(0.05)

    def note(self, found: int) -> None:
        """The server is back, and `found` is the last write that it knows."""
        self.deaths += 1
        missing = self.written - found
        if missing > 0:
            self.lost += missing
            first = self._times[-min(missing, len(self._times))]
            self.window_s = max(self.window_s, self._times[-1] - first)
        self.written = max(self.written, found)

    def line(self, mode: str) -> str:
        return (
            f"loss window ({mode}): {self.lost} of {self.written} acknowledged writes lost in {self.deaths} deaths of the server, "
            f"the longest stretch {1000 * self.window_s:.0f} ms"
        )
