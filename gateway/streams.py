"""The two ways to answer while a request runs: a stream of events, or one object at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import Gauge
from starlette.types import Receive, Scope, Send

from gateway.session import Session, frames_or_break
from gateway.sse import DONE, HEADERS, PING, encode_all

CLIENT_GONE = 499
"""Nobody reads this answer; the number is what logs of proxies call it."""


class EventStream(StreamingResponse):
    """A session as SSE. The session opens when the answer begins and closes whatever ends it: its end, a disconnect, a shutdown."""

    def __init__(
        self, opening: AbstractContextManager[Session], *, ping_s: float, after: int = -1, with_id: bool = False, open_streams: Gauge
    ) -> None:
        self._opening = opening
        self._ping_s = ping_s
        self._after = after
        self._with_id = with_id
        self._open_streams = open_streams
        super().__init__(iter(()), media_type="text/event-stream", headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._opening as session, self._open_streams.track_inprogress():
            self.body_iterator = self._frames(session)
            await super().__call__(scope, receive, send)

    async def _frames(self, session: Session) -> AsyncIterator[bytes]:
        async for events in frames_or_break(session, self._ping_s):
            if events:
                yield encode_all(events, after=self._after, with_id=self._with_id)
            else:
                yield PING
        yield DONE


async def wait_for_end(session: Session, request: Request) -> bool:
    """Folds to the end; false if the client left before. Raises `LogLost`."""
    ending = asyncio.create_task(session.run_to_end())
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            return False
        ending.result()
        return True
    finally:
        ending.cancel()
        leaving.cancel()
        await asyncio.gather(ending, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def client_gone() -> Response:
    return Response(status_code=CLIENT_GONE)
