"""A bar on the terminal while an engine is measured; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def profile_progress(console: Console | None = None) -> Iterator[Callable[[float], None]]:
    """Yields what is to be called with the share that is done, 0 to 1."""
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda share: None
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("measuring this device", total=1.0)
        yield lambda share: bars.update(task, completed=share)
