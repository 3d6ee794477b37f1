"""Manners of a process: it dies with its parent, and it leaves when asked."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

PARENT_VARIABLE = "HEADSTART_PARENT_PID"
_PR_SET_PDEATHSIG = 1
ASK_AGAIN_S = 1.0
LOOP_ASK_AGAIN_S = 5.0
YOUNG_OBJECTS = 20_000
"""For a task that itself ends others."""


def die_with_parent() -> None:
    """Asks the kernel for SIGTERM when the parent named in the environment is gone, however it went (Linux only)."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        # It died before we asked.
        sys.exit(1)


def spare_collector() -> None:
    """Call it once all is loaded that stays. The collector then looks at what came later only, and less often than by default.

    Tokens wait by the thousand in a process that is behind: each made it walk through every module and model schema again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Calls `stop` on the first SIGTERM or SIGINT; a second one ends the process at once. Call it on the running loop."""
    loop = asyncio.get_running_loop()
    asked = False

    def handle() -> None:
        nonlocal asked
        if asked:
            os._exit(130)
        asked = True
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)


def event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run` on that loop."""
    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(main)


async def cancel_all(tasks: Iterable[asyncio.Task[object]], ask_again_s: float = ASK_AGAIN_S) -> None:
    """Ends the tasks, asking again where a library swallowed the first cancellation (a redis-py call under way does).

    `ask_again_s` must be longer than a task takes to clean up: asked again while it does, it would leave things half closed.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=ask_again_s)
