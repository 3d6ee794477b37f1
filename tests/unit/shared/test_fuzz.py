"""Whatever bytes come from outside, a decoder answers with a value or with its own error, and its memory is bounded by the bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import hints
from shared.codec import TAGS, decode, encode
from shared.errors import DecodeError, TransportError
from shared.messages import Cancel, LogTokens
from shared.types import RequestId, TokenSpan, TransferId
from shared.versions import VERSION
from workers.transport import TransferHeader
from workers.ucx_wire import pack_frame, unpack_frame
from workers.verify import Expected, good_prefix, granule_digests

HEADER = TransferHeader(TransferId(3), "r", 1, TokenSpan(0, 128), b"layout", 64, (1, 2))
FRAME = pack_frame(HEADER, 128)
MESSAGE = encode(LogTokens(0, 1, (2, 3), "text", (-0.5, -0.25)))
HINT = next(iter(hints.messages([(RequestId("r"), "1-0", ["2-0"], [MESSAGE])])))
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=16),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def mutilated(good: bytes) -> st.SearchStrategy[bytes]:
    """Cut, with bytes changed, with bytes put in."""
    at = st.integers(0, len(good))
    changed = st.tuples(at, at, st.binary(max_size=8)).map(lambda cut: good[: min(cut[:2])] + cut[2] + good[max(cut[:2]) :])
    return changed | st.binary(max_size=64)


def read_or_refuse(read: Callable[[], object], refusal: type[Exception]) -> None:
    """Any other exception fails the test."""
    with suppress(refusal):
        read()


@given(mutilated(MESSAGE))
def test_a_message_is_read_or_refused(raw: bytes) -> None:
    read_or_refuse(lambda: decode(raw), DecodeError)


@given(st.sampled_from(sorted(TAGS)), st.lists(ANY, max_size=12))
def test_any_fields_under_any_tag_are_read_or_refused(tag: int, fields: list[object]) -> None:
    raw = msgpack.packb([VERSION, tag, *fields], unicode_errors="surrogatepass")
    read_or_refuse(lambda: decode(raw), DecodeError)


@given(mutilated(FRAME))
def test_a_transfers_frame_is_read_or_refused(raw: bytes) -> None:
    read_or_refuse(lambda: unpack_frame(memoryview(raw)), TransportError)


@given(ANY)
def test_any_fields_in_a_frame_are_read_or_refused(fields: object) -> None:
    raw = FRAME[:5] + msgpack.packb(fields, unicode_errors="surrogatepass")
    read_or_refuse(lambda: unpack_frame(memoryview(raw)), TransportError)


@given(mutilated(HINT) | ANY.map(lambda value: msgpack.packb(value, unicode_errors="surrogatepass")))
def test_a_hint_is_read_or_ignored(raw: bytes) -> None:
    assert hints.read(raw) is None or isinstance(hints.read(raw), tuple)


@given(st.binary(max_size=256), st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_a_payload_is_believed_only_where_its_digests_prove_it(payload: bytes, digests: list[int]) -> None:
    expected = Expected(HEADER.transfer, "r", 1, HEADER.span, b"layout", 64)
    good, bad, _ = good_prefix(replace(HEADER, digests=tuple(digests)), payload, expected)
    right = granule_digests(payload, 64)
    assert good == 0 or right[: good // 64] == tuple(digests[: good // 64])
    assert good == 64 * (bad[0] if bad else 2)


BOMBS = [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 4000]


@pytest.mark.parametrize("bomb", BOMBS, ids=["array", "map", "bytes", "text", "depth"])
def test_a_length_that_is_announced_and_not_there_takes_no_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        for head in (b"", MESSAGE[:3]):
            read_or_refuse(lambda head=head: decode(head + bomb), DecodeError)  # type: ignore[misc]
        read_or_refuse(lambda: unpack_frame(memoryview(FRAME[:5] + bomb)), TransportError)
        assert hints.read(bomb) in ((), None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_what_is_refused_is_named() -> None:
    with pytest.raises(DecodeError, match="unknown tag 99"):
        decode(msgpack.packb([VERSION, 99]))
    assert decode(encode(Cancel(RequestId("r"))), Cancel) == Cancel(RequestId("r"))
