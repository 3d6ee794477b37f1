"""Hints on the pool's channel: which logs grew, and by what.

A token that is in the log goes to every gateway in the hint itself, so that nobody has to read the log again for it. It is a hint all
the same: whoever missed the one before, or cannot read this one, reads the log.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

import msgpack

from shared.entry_codec import decode_entry
from shared.errors import DecodeError
from shared.fabric import Grown, LoggedEntry
from shared.types import RequestId

News = tuple[RequestId] | tuple[RequestId, str, list[str], list[bytes]]
"""`(request id)`, or `(request id, id of the entry before, ids, encoded entries)`."""

MAX_LOGS = 1024
"""Of one message: several of these stay far below what a server keeps for a slow subscriber."""

_PACKER = msgpack.Packer()


def messages(news: Sequence[News]) -> Iterator[bytes]:
    for at in range(0, len(news), MAX_LOGS):
        yield _PACKER.pack(news[at : at + MAX_LOGS])


def read(message: bytes, wanted: Container[RequestId] | None = None) -> tuple[Grown, ...] | None:
    """News of the wanted logs (None: of all); none at all if it is about others, an empty tuple if it could be about any."""
    try:
        news = msgpack.unpackb(message, use_list=False)
        grown = tuple([_grown(*one) for one in news if wanted is None or one[0] in wanted])
    except (ValueError, TypeError, IndexError, msgpack.exceptions.UnpackException):
        return ()
    return grown or None


def _grown(request_id: RequestId, after: str = "", ids: Sequence[str] = (), entries: Sequence[bytes] = (), *_: Any) -> Grown:
    try:
        return Grown(request_id, after, tuple([LoggedEntry(at, decode_entry(raw)) for at, raw in zip(ids, entries, strict=True)]))
    except DecodeError:
        return Grown(request_id)
