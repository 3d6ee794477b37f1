"""The arena tiles its memory into free, held and quarantined, whatever is asked of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import TransportError
from workers.staging import ALIGNMENT, Region, RegionState, StagingArena


def arena(pages: int) -> StagingArena:
    return StagingArena(memoryview(bytearray(pages * ALIGNMENT)))


def test_a_region_is_aligned_and_shows_just_the_bytes_asked_for() -> None:
    staging = arena(4)
    first, second = staging.allocate(100), staging.allocate(ALIGNMENT + 1)
    assert (first.start, first.size, len(first.view)) == (0, ALIGNMENT, 100)
    assert (second.start, second.size, len(second.view)) == (ALIGNMENT, 2 * ALIGNMENT, ALIGNMENT + 1)
    staging.check()


def test_two_regions_never_share_a_byte() -> None:
    staging = arena(2)
    first, second = staging.allocate(8), staging.allocate(8)
    first.view[:] = b"\xff" * 8
    assert bytes(second.view) == bytes(8)


def test_a_full_arena_says_so_and_a_freed_one_serves_again() -> None:
    staging = arena(2)
    region = staging.allocate(2 * ALIGNMENT)
    with pytest.raises(TransportError, match="in a row"):
        staging.allocate(1)
    staging.free(region)
    assert staging.allocate(2 * ALIGNMENT).start == 0


def test_a_quarantined_region_is_handed_out_only_after_it_is_lifted() -> None:
    staging = arena(1)
    region = staging.allocate(1)
    staging.quarantine(region)
    with pytest.raises(TransportError):
        staging.allocate(1)
    staging.lift(region)
    assert staging.free_bytes == staging.capacity


def test_giving_back_twice_is_a_bug_that_is_named() -> None:
    staging = arena(1)
    region = staging.allocate(1)
    staging.free(region)
    with pytest.raises(AssertionError, match="is not held"):
        staging.free(region)


def test_a_held_region_cannot_be_lifted() -> None:
    staging = arena(1)
    with pytest.raises(AssertionError, match="is not quarantined"):
        staging.lift(staging.allocate(1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * ALIGNMENT)), max_size=60))
def test_whatever_is_asked_the_books_balance(calls: list[tuple[int, int]]) -> None:
    staging = arena(16)
    taken: list[Region] = []
    for what, size in calls:
        if what == 0 or not taken:
            try:
                taken.append(staging.allocate(size))
            except TransportError:
                assert size > 0 or staging.free_bytes == 0
        else:
            _give_back(staging, taken, size % len(taken), quarantine=what == 1)
        staging.check()
    while taken:
        _give_back(staging, taken, 0, quarantine=False)
    assert staging.free_bytes == staging.capacity
    staging.check()


def _give_back(staging: StagingArena, taken: list[Region], at: int, *, quarantine: bool) -> None:
    region = taken[at]
    if region.state is RegionState.QUARANTINED:
        staging.lift(taken.pop(at))
    elif quarantine:
        staging.quarantine(region)
    else:
        staging.free(taken.pop(at))
