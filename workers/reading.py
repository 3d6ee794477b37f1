"""How far a worker has read one of its streams, and that it notices when the server has gone back behind it.

A server that lost its last writes, and whose clock was set back besides, gives ids again that are older than what was read: whoever
went on from there would never hear of anything any more. (A schedule of the simulator found it.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shared.entry_ids import START, order

JOBS_STREAM, CONTROL_STREAM = 0, 1
"""Places in what `Fabric.newest` answers."""


class Place:
    """Where to read on. Whatever is read twice is known by its number, its attempt, or does nothing."""

    def __init__(self) -> None:
        self._after = START
        self._doubtful = False

    def read(self, entry_id: str) -> None:
        self._after = entry_id

    def doubt(self) -> None:
        """The server was away: it may be another, or have lost something."""
        self._doubtful = True

    async def after(self, newest: Callable[[], Awaitable[str]]) -> str:
        """The entry to read on from; the stream's start if its newest one is older than what was read. Raises what `newest` raises."""
        if self._doubtful:
            self._after = behind(self._after, await newest())
            self._doubtful = False
        return self._after


def behind(read: str, newest: str) -> str:
    """`read`, or the stream's start where it has gone back behind that."""
    return START if order(newest) < order(read) else read
