"""The small structures under the core, against their obvious models."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.alarms import Alarms
from scheduler.events import Reread
from scheduler.ordered import BUCKET, Ordered
from scheduler.outbox import Outbox
from scheduler.output_lengths import WINDOW, OutputLengths
from shared.types import RequestId

KEYS = st.tuples(st.integers(0, 9), st.integers(0, 300))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=200), KEYS)
def test_an_ordered_set_is_a_sorted_list(changes: list[tuple[bool, tuple[int, int]]], key: tuple[int, int]) -> None:
    ordered: Ordered[tuple[int, int]] = Ordered()
    model: set[tuple[int, int]] = set()
    for add, one in changes:
        if add and one not in model:
            ordered.add(one)
            model.add(one)
        elif not add and one in model:
            ordered.remove(one)
            model.remove(one)
    assert list(ordered) == sorted(model)
    assert len(ordered) == len(model)
    assert list(ordered.since(key)) == [one for one in sorted(model) if one >= key]
    assert (key in ordered) == (key in model)


def test_an_ordered_set_of_many_buckets_keeps_its_order() -> None:
    ordered: Ordered[tuple[int]] = Ordered()
    count = 5 * BUCKET
    for number in range(count):
        ordered.add((number * 7919 % count,))
    assert list(ordered) == [(number,) for number in range(count)]
    assert ordered.at(3 * BUCKET) == (3 * BUCKET,)
    assert ordered.at(count) is None
    for number in range(0, count, 2):
        ordered.remove((number,))
    assert list(ordered) == [(number,) for number in range(1, count, 2)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_an_alarm_rings_once_at_the_last_time_it_was_set_to(steps: list[tuple[str, int, int]]) -> None:
    alarms: Alarms[str] = Alarms()
    model: dict[str, float] = {}
    now = 0.0
    for key, ahead, passed in steps:
        alarms.set(key, now + ahead)
        model[key] = now + ahead
        now += passed
        rung = alarms.due(now)
        assert sorted(rung) == sorted(key for key, at in model.items() if at <= now)
        for one in rung:
            del model[one]
    assert set(alarms) == set(model)


def test_an_alarm_that_was_cleared_or_put_off_does_not_ring() -> None:
    alarms: Alarms[str] = Alarms()
    alarms.set("a", 1.0)
    alarms.set("b", 1.0)
    alarms.clear("a")
    alarms.put_off(["b"], 5.0)
    assert alarms.due(4.0) == []
    assert alarms.due(5.0) == ["b"]


def test_the_outbox_repeats_what_is_overdue_and_only_that() -> None:
    outbox: Outbox[RequestId] = Outbox(1.0)
    a, b = RequestId("a"), RequestId("b")
    outbox.send(a, Reread(a), 0.0)
    outbox.send(b, Reread(b), 0.5)
    assert outbox.overdue(0.9) == []
    assert outbox.overdue(1.0) == [Reread(a)]
    assert outbox.overdue(1.5) == [Reread(b)]
    outbox.answered(a)
    assert outbox.overdue(9.0) == [Reread(b)]


def test_output_lengths_are_a_quantile_of_the_window_per_prompt_length() -> None:
    lengths = OutputLengths(0.8, 128)
    assert lengths.expect(200, 1000) == 128
    assert lengths.expect(200, 50) == 50
    for _ in range(WINDOW):
        lengths.learn(200, 999)
    for output in range(WINDOW):
        lengths.learn(200, output)
    assert lengths.expect(200, 1000) == int(WINDOW * 0.8)
    assert lengths.expect(200, 1000, delivered=100) == int(WINDOW * 0.8) - 100
    assert lengths.expect(200, 1000, delivered=999) == 1
    assert lengths.mean(200, 1000) == (WINDOW - 1) // 2
    assert lengths.expect(20, 1000) == lengths.expect(200, 1000), "nothing is known of such prompts: all stand in for them"
