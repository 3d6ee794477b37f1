"""Processes stop, wake and die as real ones do, and their writes meet the faults that the schedule plans."""

from __future__ import annotations

from scheduler.simulation.faults import PlannedFault, Scenario, Schedule
from scheduler.simulation.process import ANSWER_TIMEOUT_S, Process, Reader
from scheduler.simulation.steps import Fault, Step
from scheduler.simulation.world import World


def world_with(*faults: PlannedFault) -> World:
    return World(Schedule(1, Scenario(), faults))


def outcome_of_a_write(fault: Fault | None, step: Step = Step.WRITE_CLOSE) -> tuple[list[str], list[str]]:
    """(effects on the server, answers to the process)"""
    world = world_with(*([PlannedFault(step, 1, fault)] if fault else []))
    process, effects, answers = Process(world, "p"), list[str](), list[str]()
    process.write(Step.WRITE_CLOSE, lambda: effects.append("done"), lambda _: answers.append("yes"), lambda: answers.append("no answer"))
    world.advance(ANSWER_TIMEOUT_S + 1.0)
    return effects, answers


def test_a_write_takes_effect_and_is_answered() -> None:
    assert outcome_of_a_write(None) == (["done"], ["yes"])


def test_a_write_can_be_lost_on_the_way() -> None:
    assert outcome_of_a_write(Fault.LOST_BEFORE) == ([], ["no answer"])


def test_an_answer_can_be_lost_on_the_way_back() -> None:
    assert outcome_of_a_write(Fault.LOST_AFTER) == (["done"], ["no answer"])


def test_a_write_to_a_server_that_is_away_is_not_answered() -> None:
    assert outcome_of_a_write(Fault.AWAY, Step.SERVER) == ([], ["no answer"])


def test_a_stopped_process_does_everything_when_it_wakes_in_order() -> None:
    world, done = world_with(), list[str]()
    process = Process(world, "p")
    process.stall(2.0)
    process.run(lambda: done.append("first"))
    process.after(0.5, lambda: done.append("second"))
    world.advance(1.9)
    assert done == []
    world.advance(0.2)
    assert done == ["first", "second"]


def test_a_killed_process_does_nothing_more() -> None:
    world, done = world_with(PlannedFault(Step.WORKER_AFTER_STEP, 2, Fault.KILLED)), list[int]()
    process = Process(world, "p")
    for number in (1, 2, 3):
        process.moment(Step.WORKER_AFTER_STEP, lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == [1]


def delivered(fault: Fault | None) -> list[str]:
    world = world_with(*([PlannedFault(Step.MESSAGE_PULL, 1, fault)] if fault else []))
    process, seen = Process(world, "p"), list[str]()
    stream = [("1-0", "a"), ("2-0", "b")]
    reader = Reader(
        process,
        lambda after: tuple(pair for pair in stream if pair[0] > after),
        lambda _, message: seen.append(message),
        lambda _: Step.MESSAGE_PULL,
    )
    reader.wake()
    world.advance(10.0)
    return seen


def test_messages_are_lost_late_and_twice() -> None:
    assert delivered(None) == ["a", "b"]
    assert delivered(Fault.LOST) == ["b"]
    assert delivered(Fault.LATE) == ["b", "a"]
    assert delivered(Fault.REORDERED) == ["b", "a"]
    assert sorted(delivered(Fault.DUPLICATED)) == ["a", "a", "b"]
