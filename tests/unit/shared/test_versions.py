"""Releases that are one version apart read each other; further ones refuse each other and say what to do."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec import TAGS, Codec
from shared.errors import UnknownVersion
from shared.messages import Drain
from shared.packing import fields_of
from shared.versions import VERSION, mismatch, readable
from tests.unit.shared.test_codec import PLAIN, values_of

MIDDLE = 5
CODECS = {version: Codec(TAGS, version) for version in range(MIDDLE - 2, MIDDLE + 3)}


def optional(kind: type) -> int:
    """How many trailing fields of a message have defaults."""
    return sum(not needed for needed in fields_of(kind).values())


def shortened(message: object, count: int) -> object:
    """The message as somebody leaves it who never heard of its last `count` fields."""
    names = list(fields_of(type(message)))
    return type(message)(**{name: getattr(message, name) for name in names[: len(names) - count]})


@pytest.mark.parametrize("kind", TAGS.values(), ids=lambda kind: kind.__name__)
def test_a_neighbour_may_leave_out_the_last_fields_and_add_others(kind: type[object]) -> None:
    @given(values_of(kind), st.integers(0, optional(kind)), st.lists(PLAIN, max_size=3), st.sampled_from((-1, 0, 1)))
    def they_read_each_other(message: object, dropped: int, added: list[object], distance: int) -> None:
        writer, reader = CODECS[MIDDLE], CODECS[MIDDLE + distance]
        frame = msgpack.unpackb(writer.encode(message), unicode_errors="surrogatepass")
        older = msgpack.packb(frame[: len(frame) - dropped], unicode_errors="surrogatepass")
        newer = msgpack.packb([*frame, *added], unicode_errors="surrogatepass")
        assert reader.decode(newer, kind) == message
        assert reader.decode(older, kind) == shortened(message, dropped)

    they_read_each_other()


@pytest.mark.parametrize(("theirs", "first"), [(MIDDLE + 2, "this process"), (MIDDLE - 2, "the other one")])
def test_who_is_two_versions_away_is_refused_with_both_versions_and_the_remedy(theirs: int, first: str) -> None:
    with pytest.raises(UnknownVersion, match=f"version {theirs} of the messages.* speaks {MIDDLE} and .*upgrade {first} first") as caught:
        CODECS[MIDDLE].decode(CODECS[theirs].encode(Drain(1.0)))
    assert caught.value.version == theirs


def test_there_is_nothing_before_the_first_version() -> None:
    assert not readable(0)
    assert "no release" in mismatch(0)
    assert readable(VERSION)
    assert readable(VERSION + 1)


def test_every_message_has_a_first_field_that_all_versions_write() -> None:
    """A frame of nothing but its tag would be read as any message whose fields all have defaults."""
    assert all(optional(kind) < len(fields_of(kind)) for kind in TAGS.values())
