"""Child processes of `headstart up`: started together, restarted with back-off, stopped in order, none left behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from shared.child import COMPLAINT, Child

__all__ = ["COMPLAINT", "Child", "Children"]

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)


class Children:
    """Keeps its children running until `stop`."""

    def __init__(self, *, echo: bool) -> None:
        self._echo = echo
        self._children: list[Child] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    async def add(self, child: Child) -> None:
        self._children.append(child)
        await child.start(echo=self._echo)

    def keep_running(self) -> None:
        """From now on whoever dies is started again, later each time."""
        for child in self._children:
            child.starting = False
        self._keepers = [asyncio.create_task(self._keep(child)) for child in self._children]

    async def _keep(self, child: Child) -> None:
        while not self._stopping.is_set():
            assert child.process is not None
            code = await child.process.wait()
            if self._stopping.is_set():
                return
            wait_s = BACK_OFF_S[min(child.restarts, len(BACK_OFF_S) - 1)]
            child.restarts += 1
            print(f"{child.name} ended with {code}; starting it again in {wait_s:g} s", file=sys.stderr, flush=True)
            await asyncio.sleep(wait_s)
            if not self._stopping.is_set():
                await child.start(echo=self._echo)

    async def stop(self, timeout_s: float = 40.0) -> None:
        """In the order in which work flows: who takes requests in leaves first, who places them last."""
        self._stopping.set()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for rank in ("gateway", "agent", "worker", "scheduler"):
            await asyncio.gather(*(child.stop(timeout_s) for child in self._children if child.args[0] == rank))
