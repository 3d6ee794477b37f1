"""Nothing is believed that the header does not name and the digests do not prove."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.types import TokenSpan, TransferId
from workers.transport import TransferHeader
from workers.verify import Expected, good_prefix, granule_digests

GRANULE_BYTES = 128
PAYLOAD = bytes(range(256)) * 2
EXPECTED = Expected(TransferId(7), "r1", 2, TokenSpan(64, 320), b"layout", GRANULE_BYTES)


def header(**changes: object) -> TransferHeader:
    digests = granule_digests(PAYLOAD, GRANULE_BYTES)
    good = TransferHeader(EXPECTED.transfer, "r1", 2, EXPECTED.span, b"layout", GRANULE_BYTES, digests)
    return replace(good, **changes)  # type: ignore[arg-type]


def test_the_whole_span_is_good_when_everything_matches() -> None:
    assert good_prefix(header(), PAYLOAD, EXPECTED) == (256, (), "")


@pytest.mark.parametrize("bad", range(4))
def test_one_changed_byte_ends_the_good_prefix_at_its_granule(bad: int) -> None:
    payload = bytearray(PAYLOAD)
    payload[bad * GRANULE_BYTES + 5] ^= 1
    good, granules, reason = good_prefix(header(), payload, EXPECTED)
    assert (good, granules) == (bad * 64, (bad,))
    assert "another digest" in reason


@pytest.mark.parametrize("arrived", range(4))
def test_a_short_payload_is_good_as_far_as_it_reaches(arrived: int) -> None:
    short = PAYLOAD[: arrived * GRANULE_BYTES + GRANULE_BYTES - 1]
    good, granules, reason = good_prefix(header(), short, EXPECTED)
    assert (good, granules) == (arrived * 64, tuple(range(arrived, 4)))
    assert reason.startswith("short")


@pytest.mark.parametrize(
    "changes",
    [
        {"transfer": TransferId(8)},
        {"request_id": "r2"},
        {"attempt": 1},
        {"span": TokenSpan(0, 256)},
        {"fingerprint": b"other"},
        {"granule_bytes": 64},
        {"digests": (1, 2, 3)},
        {"error": "no such assist"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_header_of_something_else_makes_every_granule_bad(changes: dict[str, object]) -> None:
    good, granules, reason = good_prefix(header(**changes), PAYLOAD, EXPECTED)
    assert (good, granules) == (0, (0, 1, 2, 3))
    assert reason
