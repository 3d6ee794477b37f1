"""What a worker shows while it loads a model: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)


class LoadProgress(Protocol):
    """Stages that follow each other; a stage with `total` bytes is advanced."""

    def stage(self, what: str, total: int | None = None) -> None: ...

    def advance(self, count: int) -> None: ...


class LogProgress:
    """One line per stage."""

    def stage(self, what: str, total: int | None = None) -> None:
        log.info("loading: %s%s", what, "" if total is None else f" ({total / 1e6:.0f} MB)")

    def advance(self, count: int) -> None: ...


class TerminalProgress:
    """One bar per stage; without a total it only shows that something moves."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, what: str, total: int | None = None) -> None:
        self.end()
        self._task = self._bars.add_task(what, total=total)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, count)

    def end(self) -> None:
        """What is over is full, also where nobody knew how much it was."""
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1)
            self._task = None


@contextmanager
def load_progress(console: Console | None = None) -> Iterator[LoadProgress]:
    """Bars if standard error (or `console`) is a terminal, log lines otherwise."""
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield LogProgress()
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        shown = TerminalProgress(bars)
        yield shown
        shown.end()
