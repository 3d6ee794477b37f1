"""The states are tables: the code obeys them and `docs/states.md` shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.output_lengths import OutputLengths
from scheduler.requests import STEPS, LiveRequest, Stage, from_record
from shared.errors import InvalidTransition
from shared.request import TRANSITIONS
from shared.types import Phase
from tests.unit.scheduler.support import record, submission

DOC = Path(__file__).parents[3] / "docs" / "states.md"


def request(stage: Stage, phase: Phase = Phase.QUEUED) -> LiveRequest:
    live = from_record(record(submission("a")), OutputLengths(0.8, 128), 1, 0.0)
    live.stage, live.phase = stage, phase
    return live


@pytest.mark.parametrize("start", Stage)
@pytest.mark.parametrize("goal", Stage)
def test_a_step_that_is_not_in_the_table_raises_with_the_story(start: Stage, goal: Stage) -> None:
    live = request(start)
    if goal in STEPS[start]:
        live.enter(goal)
        assert live.stage is goal
    else:
        with pytest.raises(InvalidTransition, match="known as queued"):
            live.enter(goal)


@pytest.mark.parametrize("start", Phase)
@pytest.mark.parametrize("goal", Phase)
def test_a_phase_changes_only_as_the_shared_table_says(start: Phase, goal: Phase) -> None:
    live = request(Stage.RUNNING, start)
    if goal is start or goal in TRANSITIONS[start]:
        live.become(goal)
        assert live.phase is goal
    else:
        with pytest.raises(InvalidTransition):
            live.become(goal)


def table(heading: str) -> list[list[str]]:
    """The cells of the table under this heading."""
    text = DOC.read_text(encoding="utf-8").split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_page_names_every_stage_and_its_next_ones() -> None:
    rows = {row[0].strip("`"): row for row in table("Stages")}
    assert list(rows) == [stage.value for stage in Stage]
    for stage in Stage:
        following = {name.strip("` ") for name in rows[stage][-1].split(",")} - {""}
        assert following == {step.value for step in STEPS[stage]}


def test_the_page_names_the_collection_that_holds_each_stage() -> None:
    for row in table("Stages"):
        holder = {"waiting": "`State.backlog`", "running": "`Worker.running`"}.get(row[0].strip("`"), "`State.writes`")
        assert row[2] == holder


def test_the_page_shows_the_phases_as_the_shared_table_has_them() -> None:
    rows = {row[0].strip("`"): row[1] for row in table("Phases")}
    assert list(rows) == [phase.value for phase in Phase]
    for phase in Phase:
        assert {name.strip("` ") for name in rows[phase].split(",")} - {""} == {p.value for p in TRANSITIONS[phase]}
