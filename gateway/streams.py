"""The two ways to answer while a request runs: a stream of events, or one object at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from typing import Any

from fastapi import Request, Response
from prometheus_client import Gauge
from starlette.types import Receive, Scope, Send

from gateway.session import Session, frames_or_break
from gateway.sse import DONE, HEADERS, PING, encode_all

CLIENT_GONE = 499
"""Nobody reads this answer; the number is what logs of proxies call it."""


class EventStream(Response):
    """A session as SSE. The session opens when the answer begins and closes whatever ends it: its end, a disconnect, a shutdown."""

    def __init__(
        self, opening: AbstractContextManager[Session], *, ping_s: float, after: int = -1, with_id: bool = False, open_streams: Gauge
    ) -> None:
        self._opening = opening
        self._ping_s = ping_s
        self._after = after
        self._with_id = with_id
        self._open_streams = open_streams
        super().__init__(media_type="text/event-stream", headers=HEADERS)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._opening as session, self._open_streams.track_inprogress():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            told_all = await until_gone(self._stream(session, send), receive)
        if told_all:
            # Who reads this may count on the session being closed.
            await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _stream(self, session: Session, send: Send) -> None:
        """One write for all events that are there: `send` waits while the client does not read."""
        async for events in frames_or_break(session, self._ping_s):
            body = encode_all(events, after=self._after, with_id=self._with_id) if events else PING
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def wait_for_end(session: Session, request: Request) -> bool:
    """Folds to the end; false if the client left before. Raises `LogLost`."""
    return await until_gone(session.run_to_end(), request.receive)


async def until_gone(answering: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Runs to its end, which it raises if it is an error; false if the client left before: then it is cancelled."""
    ending, leaving = asyncio.create_task(answering), asyncio.create_task(_gone(receive))
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


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def client_gone() -> Response:
    return Response(status_code=CLIENT_GONE)
