"""Wait for conditions, never for durations."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def eventually(condition: Callable[[], object | Awaitable[object]], timeout_s: float = 20.0) -> None:
    """Returns once `condition()` is true; fails after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while True:
            truth = condition()
            if await truth if inspect.isawaitable(truth) else truth:
                return
            await asyncio.sleep(0.005)
