"""What goes over UCX for one transfer: a header frame, then the payload in segments, each message under its own tag.

A tag is 48 bits of transfer id and 16 bits of part: part 0 is the header frame, part `i + 1` is payload segment `i`, the bytes
`[i * SEGMENT_BYTES, (i + 1) * SEGMENT_BYTES)`. The frame is `HSKV`, version, and msgpack of the payload's length and the
`TransferHeader`.
"""

from __future__ import annotations

from typing import Final

import msgpack

from shared.errors import TransportError
from shared.types import TokenSpan, TransferId
from workers.transport import TransferHeader

SEGMENT_BYTES: Final = 8 << 20
"""Of the payload in one message. 2 to 16 MiB measured alike; part of the wire version."""
FRAME_BYTES: Final = 256 << 10
"""Room for a header frame: the digests of some 28,000 granules, 1.8 million tokens."""
HEADER_PART: Final = 0

_MAGIC: Final = b"HSKV\x01"
_PART_BITS: Final = 16
_MAX_PARTS: Final = 1 << _PART_BITS


def tag(transfer: TransferId, part: int) -> int:
    return transfer << _PART_BITS | part


def split_tag(value: int) -> tuple[TransferId, int]:
    """`(transfer, part)`."""
    return TransferId(value >> _PART_BITS), value & _MAX_PARTS - 1


def segment(part: int, nbytes: int) -> slice:
    """Where in a payload of `nbytes` this part (1 and up) belongs; empty if beyond its end."""
    start = (part - 1) * SEGMENT_BYTES
    return slice(min(start, nbytes), min(start + SEGMENT_BYTES, nbytes))


def segments(nbytes: int) -> int:
    """Into how many segments the payload goes. Raises `TransportError` if tags cannot number them."""
    count = -(-nbytes // SEGMENT_BYTES)
    if count >= _MAX_PARTS:
        raise TransportError(f"{nbytes} bytes are more than one transfer can carry; pull a shorter span")
    return count


def pack_frame(header: TransferHeader, payload_bytes: int) -> bytes:
    fields = (
        payload_bytes,
        header.transfer,
        header.request_id,
        header.attempt,
        header.span.start,
        header.span.stop,
        header.fingerprint,
        header.granule_bytes,
        header.digests,
        header.error,
    )
    frame: bytes = _MAGIC + msgpack.packb(fields)
    if len(frame) > FRAME_BYTES:
        raise TransportError(f"the header frame of {header.transfer} has {len(frame)} bytes, more than {FRAME_BYTES}")
    return frame


def unpack_frame(frame: memoryview) -> tuple[TransferHeader, int]:
    """`(header, payload bytes)`. Raises `TransportError` for anything that `pack_frame` did not write."""
    if bytes(frame[: len(_MAGIC)]) != _MAGIC:
        raise TransportError("garbled header: not a header frame of this version")
    try:
        return _read_fields(msgpack.unpackb(frame[len(_MAGIC) :], use_list=False))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise TransportError(f"garbled header: {error}") from error


def _read_fields(fields: object) -> tuple[TransferHeader, int]:
    if not isinstance(fields, tuple) or len(fields) != 10:
        raise TypeError("not the fields of a header")
    payload_bytes, transfer, request_id, attempt, start, stop, fingerprint, granule_bytes, digests, error = fields
    for value, kind in zip(fields, (int, int, str, int, int, int, bytes, int, tuple, str), strict=True):
        if type(value) is not kind:
            raise TypeError(f"{value!r} is not {kind.__name__}")
    if not all(type(digest) is int for digest in digests):
        raise TypeError("digests are integers")
    span = TokenSpan(start, stop)
    header = TransferHeader(TransferId(transfer), request_id, attempt, span, fingerprint, granule_bytes, digests, error)
    return header, payload_bytes
