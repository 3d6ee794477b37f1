"""The demo's screens fit 80 columns, one line for each prompt."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from cli.demo import DEMO_MODEL, demo_plan, demo_prompts
from cli.demo_view import Answer, cuts, live, panels


def shown(what: RenderableType) -> list[str]:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def answer(number: int, prompt: int, shares: dict[str, int], owned: list[str], **times: Any) -> Answer:
    moved = {"bytes": 98_765_432, "seconds": 12.3456} if len(shares) > 1 else {"bytes": 0, "seconds": 0.0}
    cut = sum(count for name, count in shares.items() if name not in owned)
    story = {
        "tokens": {"prompt": prompt, "cut": cut, "prefill_computed_by": shares},
        "transfers": moved,
        "times": {"queued_ms": 123456},
        "workers": {"owned": owned},
    }
    return Answer(number, "a prompt " * 60, "an answer " * 40, "done", "id", 98.7654, story)


WIDE = [
    answer(1, 2047, {"low-2#0a1b2c3d": 1984, "high-1#0a1b2c3d": 63}, ["high-1#0a1b2c3d"]),
    answer(10, 165, {"high-1#0a1b2c3d": 165}, ["high-1#0a1b2c3d"]),
    Answer(11, "a prompt", state="failed: the worker went away and nobody else could take it over, which is a pity"),
]


def test_the_cuts_are_one_line_each_and_nothing_is_shortened() -> None:
    lines = shown(cuts(WIDE))
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    first, second, third = (next(line for line in lines if line.startswith(start)) for start in (" 1 ", "10 ", "11 "))
    assert first.split() == ["1", "2047", "█" * 11 + "░", "low-2", "1984", "high-1", "63", "123456", "98765", "12346", "98765"]
    assert second.split() == ["10", "165", "░" * 12, "-", "high-1", "165", "123456", "-", "-", "98765"]
    assert third.split() == ["11", "failed"]
    assert len(lines) == 3 + 1 + 3 + 2, "title and headings, their line, rows, legend"


@pytest.mark.parametrize(("cut", "low"), [(0, 0), (1, 1), (1024, 6), (2046, 11)])
def test_the_bar_shows_the_cut(cut: int, low: int) -> None:
    owner = {"high-1": 2047 - cut}
    lines = shown(cuts([answer(1, 2047, {"low-1": cut, **owner} if cut else owner, ["high-1"])]))
    row = next(line for line in lines if "high-1" in line)
    assert "█" * low + "░" * (12 - low) in row.split()


def test_live_answers_are_one_line_each() -> None:
    assert len(shown(live(WIDE))) == len(WIDE)
    assert max(map(len, shown(panels(WIDE)))) <= 80


def test_the_plan_and_the_prompts_make_prompts_wait() -> None:
    """One step holds one granule, and every prompt is several."""
    plan = demo_plan(DEMO_MODEL)
    assert [worker.name for worker in plan.workers] == ["high-1", "low-1", "low-2"]
    assert min(len(prompt) for prompt in demo_prompts(8)) > 600
