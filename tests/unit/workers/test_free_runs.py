"""The longest run of free blocks, kept instead of looked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.free_runs import FreeRuns


def looked_for(free: list[bool]) -> tuple[int, int]:
    """The first of the longest runs, by a look at everything."""
    best = (0, 0)
    start = 0
    for at, is_free in enumerate([*free, False]):
        if not is_free:
            if at - start > best[1] - best[0]:
                best = (start, at)
            start = at + 1
    return best


@given(st.integers(1, 40), st.lists(st.integers(0, 1000), max_size=60))
def test_runs_are_those_that_a_look_at_everything_finds(total: int, draws: list[int]) -> None:
    runs, free = FreeRuns(total), [True] * total
    for draw in draws:
        number = draw % total
        if free[number]:
            run = max(at for at in range(number + 1) if free[at] and (at == 0 or not free[at - 1]))
            count = 1 + draw % (runs.run_at(run) - number)
            runs.take(number, count, run)
            free[number : number + count] = [False] * count
        else:
            runs.give(number)
            free[number] = True
        assert len(runs) == sum(free)
        assert [at in runs for at in range(total)] == free
        if any(free):
            assert runs.longest() == looked_for(free)


def test_nothing_free_has_no_longest_run() -> None:
    runs = FreeRuns(3)
    runs.take(0, 3, 0)
    with pytest.raises(IndexError):
        runs.longest()
    assert runs.run_at(1) == 1
