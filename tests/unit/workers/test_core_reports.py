"""Reports: credit, lists, and when they are sent."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import ConfigError
from shared.messages import AssistState, Credit, OwnedState
from shared.types import AssistId, JobSeq
from tests.support.core_bench import ASSISTED, SPEC, Bench, R
from tests.support.core_harness import make_spec
from workers.events import Tick

# --- reports -------------------------------------------------------------------------------------------------------


def test_an_idle_worker_has_all_its_credit() -> None:
    bench = Bench()
    bench.do(Tick())
    assert bench.reports[-1].credit == Credit(tokens=128, blocks=40, sequences=4)


def test_credit_is_what_the_coming_step_leaves() -> None:
    """Budget 128: the running step takes 100 of the prompt, then it decodes; 300 more are a backlog of two steps."""
    bench = Bench(expected_output_tokens=2)
    bench.assign(SPEC)
    assert bench.reports[-1].credit == Credit(tokens=127, blocks=33, sequences=3)
    bench.assign(make_spec("long", 300))
    bench.do(Tick(), now=1.0)
    assert bench.reports[-1].credit.tokens == 0


def test_credit_that_appears_is_told_at_once() -> None:
    bench = Bench()
    bench.assign(make_spec("long", 300))
    bench.do(Tick(), now=1.0)
    assert bench.reports[-1].credit.tokens == 0
    bench.step()
    count = len(bench.reports)
    bench.step()
    assert len(bench.reports) == count + 1
    assert bench.reports[-1].credit.tokens == 127


def test_head_starts_count_neither_against_tokens_nor_blocks() -> None:
    bench = Bench()
    bench.order(ASSISTED)
    bench.do(Tick(), now=1.0)
    assert bench.reports[-1].credit == Credit(tokens=128, blocks=40, sequences=3)


def test_reports_come_at_their_interval_and_count_up() -> None:
    bench = Bench()
    for now in (0.0, 0.2, 0.5, 0.6, 1.0):
        bench.do(Tick(), now=now)
    assert [report.counter for report in bench.reports] == [1, 2, 3]


def test_a_report_lists_everything() -> None:
    bench = Bench()
    bench.assign(SPEC)
    bench.step(5)
    bench.order(ASSISTED)
    bench.do(Tick(), now=1.0)
    report = bench.reports[-1]
    assert report.owned == (OwnedState(R, 1, 101, 100),)
    assert report.assists == (AssistState(AssistId("a"), ASSISTED.request_id, 0, stopped=False),)
    assert report.seen == JobSeq(1, 2)


def test_free_sequences_leave_room_when_a_choice_has_ended() -> None:
    bench = Bench()
    bench.assign(SPEC)
    assert bench.core.free_sequences == 3
    bench.step(0)
    assert bench.core.free_sequences == 4


def test_a_core_shows_what_it_is_doing() -> None:
    bench = Bench()
    bench.assign(SPEC)
    assert repr(bench.core) == (
        "<WorkerCore me#1 ready [running 1 | waiting 0 | pulling 0 | assists 0 | sends 0 | steps 1 | blocks 33/40 | budget 128]>"
    )


@pytest.mark.parametrize("changes", [{"depth": 3}, {"block_tokens": 24}, {"token_budget": 3}, {"watermark_blocks": 40}])
def test_settings_that_could_never_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Bench(**changes)
