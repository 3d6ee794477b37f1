"""The words of durability: what they mean, what they ask of a server, and what is no such word."""

from __future__ import annotations

import pytest

from shared.durability import Durability, Mode
from shared.errors import ConfigError


@pytest.mark.parametrize("text", ["default", "fsync", "waitaof", "waitaof=2", "wait-replicas=1"])
def test_a_mode_says_its_own_name(text: str) -> None:
    assert str(Durability.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "always", "fsync=1", "wait-replicas", "wait-replicas=0", "wait-replicas=-1", "waitaof=x", "default=3"]
)
def test_another_word_is_refused_with_all_that_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match="wait-replicas=N"):
        Durability.parse(text)


def test_what_is_asked_and_when_it_is_enough() -> None:
    local, far = Durability(Mode.WAITAOF, 1), Durability(Mode.WAIT, 2)
    assert local.command(50) == ("WAITAOF", 1, 1, 50)
    assert far.command(50) == ("WAIT", 2, 50)
    assert [local.shortfall(answer) for answer in ([1, 1], [1, 2])] == ["", ""]
    assert local.shortfall([0, 1]) == "not on the server's disk yet"
    assert local.shortfall([1, 0]) == "0 of 1 replicas have it"
    assert far.shortfall(1) == "1 of 2 replicas have it"
    assert not far.shortfall(2)
    assert far.shortfall(ValueError("no such command")) == "no such command"
