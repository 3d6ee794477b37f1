"""Tests wait for conditions, never for durations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], timeout_s: float = 10.0) -> T:
    """The first true answer of `look`, asked again and again; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := await look()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.005)
    return found


def eventually_now(look: Callable[[], T], timeout_s: float = 10.0) -> T:
    """The same for what needs no event loop."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.005)
    return found
