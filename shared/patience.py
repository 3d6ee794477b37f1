"""A process that starts while the message server is on its way back waits for it a little: its address need not be wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import FabricUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 10.0
PAUSE_S = 0.2


async def patiently(step: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """The answer of `step`, which is asked again while the server is away; raises its `FabricUnavailable` after `patience_s` seconds."""
    deadline, told = time.monotonic() + patience_s, False
    while True:
        try:
            return await step()
        except FabricUnavailable as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                log.warning("waiting up to %g s for the message server: %s", patience_s, error)
            told = True
            await asyncio.sleep(PAUSE_S)
