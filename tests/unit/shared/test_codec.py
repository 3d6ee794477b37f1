"""Every message goes there and back; whatever else arrives is a `DecodeError`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import UnionType
from typing import Any, NewType, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import messages
from shared.codec import CONTROL, JOBS, MAX_BYTES, POOL_EVENTS, TAGS, Codec, decode, encode
from shared.errors import DecodeError
from shared.messages import Assign, Cancel, Drain, LogTokens, Source, StoryLine
from shared.packing import fields_of
from shared.types import AssistId, JobSeq, RequestId, TokenSpan, WorkerId, WorkerRef
from shared.versions import VERSION

INT64 = st.integers(-(2**63), 2**64 - 1)
FLOAT = st.floats(allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | INT64 | FLOAT | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: INT64,
    float: FLOAT,
    str: st.text(),
    bytes: st.binary(),
    type(None): st.none(),
    dict[str, object]: st.dictionaries(st.text(), PLAIN, max_size=4),
    TokenSpan: st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)).map(lambda ends: TokenSpan(min(ends), max(ends))),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that a message can hold."""
    if isinstance(hint, NewType):
        return values_of(hint.__supertype__)
    if hint in SCALARS:
        return SCALARS[hint]
    if isinstance(hint, UnionType):
        return st.one_of([values_of(member) for member in get_args(hint)])
    if get_origin(hint) is tuple and get_args(hint)[1:] != (...,):
        return st.tuples(*map(values_of, get_args(hint)))
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0]), max_size=5).map(tuple)
    if issubclass(hint, Enum):
        return st.sampled_from(hint)
    hints = get_type_hints(hint)
    return st.builds(hint, **{name: values_of(hints[name]) for name in fields_of(hint)})


ASSIGN = Assign(JobSeq(3, 4), RequestId("r"), 2, 100, Source(AssistId("a"), WorkerRef(WorkerId("w"), "i"), 64))


def frame(tag: object, *fields: object, version: object = VERSION) -> bytes:
    raw: bytes = msgpack.packb([version, tag, *fields])
    return raw


def kept_or_decoded(raw: bytes) -> bool:
    """Either a message came of it, or an error that keeps the bytes. Nothing else does."""
    try:
        return type(decode(raw)) in TAGS.values()
    except DecodeError as error:
        return error.raw == raw


@pytest.mark.parametrize("kind", TAGS.values(), ids=lambda kind: kind.__name__)
def test_each_kind_goes_there_and_back(kind: type[object]) -> None:
    @given(values_of(kind))
    def there_and_back(message: object) -> None:
        assert decode(encode(message), kind) == message
        assert type(decode(encode(message))) is kind

    there_and_back()


def test_every_message_has_a_tag() -> None:
    kinds = {kind for kind in vars(messages).values() if isinstance(kind, type) and kind.__module__ == messages.__name__}
    of_module = {kind for kind in kinds if fields_of(kind)}
    nested = {messages.Source, messages.OwnedState, messages.AssistState, messages.Returned, messages.Credit}
    assert of_module - nested <= set(TAGS.values())


@given(st.binary(max_size=200))
def test_noise_is_a_decode_error_that_keeps_the_bytes(raw: bytes) -> None:
    assert kept_or_decoded(raw)


@given(st.sampled_from(sorted(TAGS)), st.lists(PLAIN, max_size=12))
def test_wrong_fields_are_a_decode_error_or_a_message(tag: int, fields: list[object]) -> None:
    assert kept_or_decoded(frame(tag, *fields))


@given(st.data())
def test_a_bent_message_is_a_decode_error_or_a_message(data: st.DataObject) -> None:
    raw = bytearray(encode(ASSIGN))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert kept_or_decoded(bytes(raw))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no message"),
        (msgpack.packb(7), "a frame"),
        (msgpack.packb([VERSION]), "a frame"),
        (frame(15, 1.0, version=VERSION + 2), f"version {VERSION + 2} .* upgrade this process first"),
        (frame(15, 1.0, version=0), "no release ever wrote that"),
        (frame(15, 1.0, version=True), "a frame"),
        (frame(999, 1.0), "unknown tag"),
        (frame(15), "at least 1 fields"),
        (frame(15, 1), "float expected"),
        (frame(10, 5), "str expected"),
        (frame(3, "g", True), "int expected"),
        (frame(17, "queue"), "no Phase"),
        (frame(39, 5, 4), "start <= stop"),
        (frame(16, 0, 0, [1, True], "x"), "array of int"),
        (frame(15, 1.0) + b"\x00", "extra"),
        (b"\xc1", "no message"),
    ],
)
def test_what_is_wrong_is_said(raw: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why) as caught:
        decode(raw)
    assert caught.value.raw == raw


def test_too_large_or_too_deep_is_refused() -> None:
    with pytest.raises(DecodeError, match="more than"):
        decode(b"\x00" * (MAX_BYTES + 1))
    deep: object = 1
    for _ in range(2000):
        deep = [deep]
    for nested in (deep, [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]):
        packer = msgpack.Packer()
        try:
            raw = packer.pack([VERSION, 19, 1, "w", "x", {"deep": nested}])
        except ValueError:  # The packer gives up first.
            raw = frame(19, 1, "w", "x")[:-1] + b"\x81\xa1d" + b"\x91" * 2000 + b"\x01"
        with pytest.raises(DecodeError):
            decode(raw)


def test_a_message_of_another_stream_is_refused() -> None:
    assert decode(encode(ASSIGN), *JOBS) == ASSIGN
    with pytest.raises(DecodeError, match="Assign where"):
        decode(encode(ASSIGN), *CONTROL)
    assert messages.Report in POOL_EVENTS


@dataclass(frozen=True, slots=True)
class Old:
    a: int
    b: str = "old"


@dataclass(frozen=True, slots=True)
class New:
    a: int
    b: str = "old"
    c: tuple[float, ...] = (1.0,)
    d: Drain | None = None
    e: dict[str, object] = field(default_factory=dict)


def test_releases_read_each_other() -> None:
    old, new = Codec({1: Old}), Codec({1: New})
    assert new.decode(old.encode(Old(1, "x"))) == New(1, "x")
    assert old.decode(new.encode(New(1, "x", (2.0,), Drain(1.0)))) == Old(1, "x")
    assert old.decode(frame(1, 5)) == Old(5)


class Colour(Enum):
    RED = 1


@dataclass(frozen=True, slots=True)
class Boxed:
    inner: Old | New | None
    colours: tuple[Colour, ...] = ()


def test_a_union_inside_a_message_is_tagged() -> None:
    codec = Codec({1: Old, 2: New, 3: Boxed})
    for inner in (None, Old(1), New(1)):
        assert codec.decode(codec.encode(Boxed(inner, (Colour.RED,)))) == Boxed(inner, (Colour.RED,))
    for raw in (frame(3, [9, 1]), frame(3, []), frame(3, 5), frame(3, None, [True])):
        with pytest.raises(DecodeError):
            codec.decode(raw)


@dataclass(frozen=True, slots=True)
class Unwireable:
    items: set[int]


def test_what_cannot_go_on_the_wire_is_found_when_it_is_declared() -> None:
    with pytest.raises(TypeError, match="no shape"):
        Codec({1: Unwireable})
    with pytest.raises(TypeError, match="no tag"):
        encode(Unwireable(set()))
    with pytest.raises(ValueError, match="keys must be strings"):
        encode(StoryLine(0, "w", "x", {"a": {1: 2}}))


def test_an_int_where_a_float_belongs_is_sent_as_a_float() -> None:
    assert type(decode(encode(Drain(30)), Drain).deadline_s) is float


def test_lone_surrogates_survive() -> None:
    assert decode(encode(Cancel(RequestId("r"), "\ud800")), Cancel).error == "\ud800"


def test_a_long_prompt_is_one_pass() -> None:
    entry = LogTokens(0, 0, tuple(range(200_000)), "")
    assert decode(encode(entry), LogTokens) == entry
