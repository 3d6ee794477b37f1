"""What arrived is believed granule by granule, and only if the header names exactly what was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from shared.types import GRANULE_TOKENS, TokenSpan, TransferId
from workers.transport import TransferHeader


@dataclass(frozen=True, slots=True)
class Expected:
    """What the receiver asked for: whatever differs in the header is another transfer's, another attempt's, another model's."""

    transfer: TransferId
    request_id: str
    attempt: int
    span: TokenSpan
    fingerprint: bytes
    granule_bytes: int


def granule_digests(payload: memoryview | bytes | bytearray, granule_bytes: int) -> tuple[int, ...]:
    """xxh3_64 of each whole granule of `payload` in order; a shorter rest has none."""
    view = memoryview(payload).cast("B")
    return tuple(
        xxhash.xxh3_64_intdigest(view[start : start + granule_bytes]) for start in range(0, len(view) - granule_bytes + 1, granule_bytes)
    )


def good_prefix(header: TransferHeader, payload: memoryview | bytes | bytearray, expected: Expected) -> tuple[int, tuple[int, ...], str]:
    """(good tokens from the span's start, bad granules by their number in the span, why; empty when all is good).

    A header that is not the expected one makes every granule bad, whatever the bytes are.
    """
    granules = len(expected.span) // GRANULE_TOKENS
    mismatch = _mismatch(header, expected, granules)
    if mismatch:
        return 0, tuple(range(granules)), mismatch
    found = granule_digests(payload, expected.granule_bytes)
    bad = tuple(at for at, digest in enumerate(header.digests) if at >= len(found) or found[at] != digest)
    good = (bad[0] if bad else granules) * GRANULE_TOKENS
    return good, bad, _complaint(bad, len(found), granules)


def _mismatch(header: TransferHeader, expected: Expected, granules: int) -> str:
    if header.error:
        return header.error
    for name in ("transfer", "request_id", "attempt", "span", "fingerprint", "granule_bytes"):
        if getattr(header, name) != getattr(expected, name):
            return f"the header names another {name}"
    if len(header.digests) != granules:
        return f"{len(header.digests)} digests for {granules} granules"
    return ""


def _complaint(bad: tuple[int, ...], arrived: int, granules: int) -> str:
    if arrived < granules:
        return f"short: {arrived} of {granules} granules arrived"
    return f"{len(bad)} of {granules} granules have another digest" if bad else ""
