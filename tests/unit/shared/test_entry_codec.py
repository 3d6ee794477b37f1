"""The short way of a log's entries says what the long one says."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec import LOG_ENTRIES, decode, encode
from shared.entry_codec import decode_entry, encode_entry
from shared.errors import DecodeError
from shared.messages import LogEnd, LogEntry, LogTokens
from shared.types import FinishReason, Phase
from shared.versions import VERSION

NUMBERS = st.integers(0, 2**40)
FLOATS = st.floats(allow_nan=False)
ALTERNATIVES = st.lists(st.lists(st.tuples(NUMBERS, FLOATS), max_size=2).map(tuple), max_size=2).map(tuple)
LOGPROBS = st.lists(FLOATS | st.integers(-9, 0), max_size=2).map(tuple)
IDS = st.lists(NUMBERS, max_size=3).map(tuple)
FINISH = st.none() | st.sampled_from(FinishReason)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=5)
TOKENS = st.builds(LogTokens, NUMBERS, NUMBERS, IDS, TEXTS, LOGPROBS, FINISH, NUMBERS, ALTERNATIVES, NUMBERS)
ENTRIES = TOKENS | st.builds(LogEnd, st.sampled_from(Phase), TEXTS, TEXTS, NUMBERS)
NEARLY = st.one_of(NUMBERS, FLOATS, TEXTS, st.none(), st.booleans(), st.lists(NUMBERS | FLOATS | st.booleans(), max_size=1))


def read(raw: bytes) -> object:
    try:
        return decode(raw, *LOG_ENTRIES)
    except DecodeError as error:
        return str(error)


def read_shortly(raw: bytes) -> object:
    try:
        return decode_entry(raw)
    except DecodeError as error:
        return str(error)


@given(ENTRIES)
def test_both_ways_write_and_read_the_same(entry: LogEntry) -> None:
    raw = encode_entry(entry)
    assert raw == encode(entry)
    assert decode_entry(raw) == decode(raw, *LOG_ENTRIES) == entry
    assert type(decode_entry(raw)) is type(entry)


@given(st.binary(max_size=60))
def test_noise_is_the_same_error(raw: bytes) -> None:
    assert read_shortly(raw) == read(raw)


@given(st.integers(0, 10), NEARLY)
def test_one_wrong_field_is_the_same_error(at: int, wrong: Any) -> None:
    frame: list[object] = [VERSION, 16, 0, 7, [3], "a", [-1.0], None, 5, [], 0]
    frame[at] = wrong
    raw = msgpack.packb(frame, unicode_errors="surrogatepass")
    assert read_shortly(raw) == read(raw)
    assert type(read_shortly(raw)) is type(read(raw))


@pytest.mark.parametrize("extra", [[], [1]])
def test_fields_of_other_releases_are_left_out_or_filled_in(extra: list[int]) -> None:
    fields: list[object] = [VERSION, 16, 0, 7, [3], "a", [-1.0], None, 5]
    raw = msgpack.packb([*fields, [], 0, *extra] if extra else fields)
    assert decode_entry(raw) == LogTokens(0, 7, (3,), "a", (-1.0,), None, 5)
