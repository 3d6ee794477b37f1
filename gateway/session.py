"""One client's view of one request, open while it is looked at: the log is followed and the scheduler knows that somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

from gateway.bundle import BundleFold
from gateway.fold import Event, Fold, LogLost
from gateway.follower import Follower
from gateway.listeners import Listeners
from gateway.tail import Following


class Session:
    """Entries in, numbered events out. Opened by `open_session`; one consumer at a time."""

    def __init__(self, fold: Fold, following: Following) -> None:
        self.fold = fold
        self._following = following

    async def events(self, idle_s: float) -> AsyncIterator[list[Event]]:
        """Every event from the log's start; an empty list after each `idle_s` of silence. Raises `LogLost`."""
        yield self.fold.opening()
        while not self.fold.ended:
            entries = await self._following.next(idle_s)
            yield self.fold.feed_all(entries)

    async def run_to_end(self) -> None:
        """Folds the whole log, for a client that wants the answer in one piece. Raises `LogLost`."""
        async for _ in self.events(60.0):
            pass

    async def run_for(self, seconds: float) -> None:
        """Folds until the end, or until the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self.run_to_end()
        except TimeoutError:
            return


class BundleSession(Session):
    """Several logs as one stream, prompt after prompt: the numbers then depend on the logs alone.

    While one prompt's log is read nothing of the later ones is held here; their requests run all the same.
    """

    def __init__(self, fold: BundleFold, follower: Follower) -> None:
        self.fold: BundleFold = fold
        self._follower = follower

    async def events(self, idle_s: float) -> AsyncIterator[list[Event]]:
        for part in self.fold.parts:
            yield self.fold.opening_of(part)
            with self._follower.follow(part.request_id) as following:
                while not part.ended:
                    yield self.fold.feed_of(part, await following.next(idle_s))
            if self.fold.failed:
                return
        yield self.fold.closing()


@contextmanager
def open_session(fold: Fold, follower: Follower, listeners: Listeners | None, *, known: bool = False) -> Iterator[Session]:
    """Follows the fold's logs; with `listeners`, its requests count as listened to meanwhile (`known`: their submissions said so)."""
    parts = fold.parts if isinstance(fold, BundleFold) else (fold,)
    for part in parts:
        if listeners is not None:
            listeners.enter(part.request_id, known=known)
    try:
        with ExitStack() as stack:
            yield _session(fold, follower, stack)
    finally:
        for part in parts:
            if listeners is not None:
                listeners.leave(part.request_id, ended=part.ended)


def _session(fold: Fold, follower: Follower, stack: ExitStack) -> Session:
    if isinstance(fold, BundleFold):
        return BundleSession(fold, follower)
    return Session(fold, stack.enter_context(follower.follow(fold.request_id)))


async def frames_or_break(session: Session, idle_s: float) -> AsyncIterator[list[Event]]:
    """The session's events; a log that is lost ends them with a named error."""
    try:
        async for events in session.events(idle_s):
            yield events
    except LogLost as error:
        yield session.fold.broken(error)
