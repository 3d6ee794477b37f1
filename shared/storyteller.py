"""Collects the lines of `explain` and writes them in batches; a line is never worth waiting for."""

from __future__ import annotations

import asyncio
import logging

from shared.clock import Clock
from shared.errors import FabricUnavailable
from shared.fabric import Fabric
from shared.messages import StoryLine
from shared.types import RequestId

log = logging.getLogger(__name__)


class Storyteller:
    """`add` on the loop, `flush` now and then."""

    def __init__(self, fabric: Fabric, clock: Clock, who: str) -> None:
        self._fabric = fabric
        self._clock = clock
        self._who = who
        self._lines: dict[RequestId, list[StoryLine]] = {}

    def add(self, request_id: RequestId, what: str, data: dict[str, object]) -> None:
        told = {"request": request_id} | ({"attempt": data["attempt"]} if "attempt" in data else {})
        log.debug(what, extra=told)
        self._lines.setdefault(request_id, []).append(StoryLine(self._clock.wall_ms(), self._who, what, data))

    async def flush(self) -> None:
        """Writes what was collected; while the server is away the lines are lost, and the log says how many."""
        stories, self._lines = self._lines, {}
        await asyncio.gather(*(self._tell(request_id, tuple(lines)) for request_id, lines in stories.items()))

    async def _tell(self, request_id: RequestId, lines: tuple[StoryLine, ...]) -> None:
        try:
            await self._fabric.tell_story(request_id, lines)
        except FabricUnavailable:
            log.warning("%d lines of the story of %s are lost: the server is away", len(lines), request_id)
