"""Events as bytes: what stands on the wire of a stream.

On `/v1` there is never an `id:` or `retry:` line: the official client dispatches an empty event on a blank line once it has seen
an id, and crashes. A ping is a comment with a single newline, which no decoder takes for the end of an event.
"""

from __future__ import annotations

import orjson

from gateway.fold import Event

PING = b": ping\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies must neither keep nor collect a stream."""


def encode(event: Event, *, with_id: bool = False) -> bytes:
    """One frame: `id:` only where it is asked for, `event:` only where the API names its events."""
    if not (with_id or event.name):
        return b"data: " + orjson.dumps(event.data) + b"\n\n"
    head = b""
    if with_id:
        head += b"id: %d\n" % event.number
    if event.name:
        head += b"event: " + event.name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(event.data) + b"\n\n"


def encode_all(events: list[Event], *, after: int = -1, with_id: bool = False) -> bytes:
    """The frames of the events numbered above `after`, in one write."""
    return b"".join(encode(event, with_id=with_id) for event in events if event.number > after)
