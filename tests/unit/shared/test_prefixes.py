"""Names of a prompt's beginnings: chained, salted, bounded, the same in every process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.prefixes import MAX_PREFIX_GRANULES, PREFIX_BYTES, prefix_hashes, split_hashes
from shared.types import GRANULE_TOKENS

PROMPT = tuple(range(1000))


def test_one_hash_for_each_whole_granule_and_none_for_less() -> None:
    assert [len(prefix_hashes(PROMPT[:n], "")) // PREFIX_BYTES for n in (0, 1, 63, 64, 127, 128, 1000)] == [0, 0, 0, 1, 1, 2, 15]


def test_a_longer_prompt_begins_with_the_hashes_of_a_shorter_one() -> None:
    assert prefix_hashes(PROMPT, "t").startswith(prefix_hashes(PROMPT[:640], "t"))


def test_tenants_have_nothing_in_common() -> None:
    assert not set(split_hashes(prefix_hashes(PROMPT, "a"), 1000)) & set(split_hashes(prefix_hashes(PROMPT, "b"), 1000))


def test_a_change_changes_every_name_from_there_on() -> None:
    changed = (*PROMPT[:200], 7, *PROMPT[201:])
    same = [one == other for one, other in zip(*(split_hashes(prefix_hashes(p, ""), 1000) for p in (PROMPT, changed)), strict=True)]
    assert same == [True] * 3 + [False] * 12


def test_the_names_of_a_huge_prompt_are_bounded() -> None:
    assert len(prefix_hashes((5,) * 100_000, "")) == PREFIX_BYTES * MAX_PREFIX_GRANULES


def test_names_are_the_same_in_every_process() -> None:
    assert prefix_hashes(PROMPT[:64], "tenant").hex() == "f6c047ffea014734"


@given(st.integers(0, 2000))
def test_split_gives_whole_granules_only(tokens: int) -> None:
    names = split_hashes(prefix_hashes(PROMPT, ""), tokens)
    assert len(names) == min(tokens // GRANULE_TOKENS, 15)
    assert all(len(name) == PREFIX_BYTES for name in names)
