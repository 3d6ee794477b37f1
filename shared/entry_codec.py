"""Log entries <-> bytes, as `shared.codec` has them, with a short way for what nearly every entry is.

A token that goes on, without alternatives, needs no converter: its fields are what msgpack knows. Everything else takes the long way,
and so does whatever is not quite as it should be; both ways say the same (a property test compares them).
"""

from __future__ import annotations

from types import NoneType

import msgpack

from shared.codec import LOG_ENTRIES, TAGS, decode, encode
from shared.messages import LogEntry, LogTokens
from shared.versions import VERSION

_TAG = next(tag for tag, kind in TAGS.items() if kind is LogTokens)
_TYPES = (int, int, int, int, tuple, str, tuple, NoneType, int, tuple, int)
"""Of a frame: version, tag, and a token's fields."""
_SHORT = 4096
_PACKER = msgpack.Packer(unicode_errors="surrogatepass")  # It holds the interpreter's lock for all of a `pack`.
_make = LogTokens._make


def encode_entry(entry: LogEntry) -> bytes:
    """`encode`."""
    if type(entry) is LogTokens and entry.finish is None and not entry.top_logprobs and _are_all(entry.logprobs, float):
        raw: bytes = _PACKER.pack((VERSION, _TAG, *entry))
        return raw
    return encode(entry)


def decode_entry(raw: bytes) -> LogEntry:
    """`decode(raw, *LOG_ENTRIES)`. Raises `DecodeError`."""
    if len(raw) <= _SHORT:
        try:
            frame = msgpack.unpackb(raw, use_list=False, unicode_errors="surrogatepass")
        except (ValueError, msgpack.exceptions.UnpackException):
            return decode(raw, *LOG_ENTRIES)
        if type(frame) is tuple and tuple(map(type, frame)) == _TYPES and _is_plain(frame):
            return _make(frame[2:])
    return decode(raw, *LOG_ENTRIES)


def _is_plain(frame: tuple[object, ...]) -> bool:
    version, tag, _, _, token_ids, _, logprobs, _, _, top, _ = frame
    return version == VERSION and tag == _TAG and not top and _are_all(token_ids, int) and _are_all(logprobs, float)


def _are_all(items: object, kind: type) -> bool:
    return type(items) is tuple and (type(items[0]) is kind if len(items) == 1 else set(map(type, items)) <= {kind})
