"""The parts of the simulated benchmarks that decide what their figures mean."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.flood_orders import ORDERS, requests_per_s, rows
from benchmarks.goodput_plot import goodput_table, save_plot
from benchmarks.many_workers import goodput_rows
from benchmarks.papers import LOW_RATE, rates, tail_jobs, tail_rows
from benchmarks.simulated_runs import Job, Runs, arrivals_of, plan_of, restored, run
from benchmarks.unequal_instances import most_gain
from scheduler.simulation.serving.figures import Figures, steady_rate
from scheduler.simulation.serving.trace import COLUMNS, Arrival

REQUESTS = 12


@pytest.fixture
def job(tmp_path: Path) -> Job:
    rows = [f"2023-11-16 18:17:{at:02d}.000000,{64 + 32 * at},{8 + at}" for at in range(REQUESTS)]
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    return Job("unequal-several", "headstart", 0.0, trace, REQUESTS, 0)


def test_a_steady_rate_leaves_out_filling_and_draining() -> None:
    """Two a second from 10 s to 20 s, after one late start and before four stragglers."""
    steady = [10.0 + at / 2 for at in range(21)]
    assert steady_rate([9.0, *steady, 40.0, 60.0, 80.0, 100.0]) == pytest.approx(2.0)
    assert len(steady) / 100 < 0.5, "over the whole run it would have been a tenth of that"


def test_too_few_ends_have_no_steady_rate() -> None:
    assert steady_rate([]) == steady_rate([1.0, 2.0, 3.0]) == steady_rate([5.0] * 8) == 0.0


def test_runs_kept_before_jobs_had_passes_are_still_found(job: Job) -> None:
    assert set(json.loads(job.key)) == {"cell", "policy", "rate", "trace", "requests", "seed"}
    assert len({job.key, replace(job, passes=2).key, replace(job, alone="a10").key}) == 3


def test_one_instance_alone_serves_the_whole_trace_so_many_times(job: Job) -> None:
    alone = replace(job, alone="a100", passes=2, policy="high-only")
    (worker,) = plan_of(alone).workers
    assert (worker.name, worker.count) == ("a100", 1)
    assert arrivals_of(alone) == 2 * arrivals_of(job)
    found = run(alone)
    assert list(found.utilisation) == ["a100"]
    assert found.steady_per_s > found.requests_per_s > 0
    assert found.latency[-1] >= found.ttft[-1] > 0
    assert len(plan_of(job).workers) == 2


def test_what_was_kept_is_not_run_again(job: Job, tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    figures = run(job)
    kept.write_text(json.dumps({"job": job.key, "figures": asdict(figures)}) + "\n")
    assert Runs(kept, 1)[job] == figures
    old = {name: value for name, value in asdict(figures).items() if name not in ("latency", "steady_per_s")}
    assert restored(old).latency == ()


def test_the_most_that_whole_requests_can_gain_over_round_robin() -> None:
    assert most_gain([(4.0, 3)]) == 0.0
    assert most_gain([(5.0, 3), (1.0, 1)]) == pytest.approx(16 / 4 - 1)


def _figures(policy: str, goodput: float) -> Figures:
    quantiles = (0.1, 0.2, 0.3)
    return Figures(policy, 10.0, 100.0, goodput, quantiles, quantiles, {}, {}, 0.0, 0.0, 0, None, 1)


def test_goodput_beside_every_other_policy(tmp_path: Path) -> None:
    found = {8.0: [_figures("ours", 7.5), _figures("theirs", 5.0), _figures("nothing", 0.0)]}
    (row,) = goodput_rows(8.0, found[8.0])
    assert row.holds
    assert row.ratio == pytest.approx(1.5)
    lines = goodput_table(found).splitlines()
    assert [line.split() for line in lines[1:]] == [["ours", "7.50", "75.0%"], ["theirs", "5.00", "50.0%"], ["nothing", "0.00", "0.0%"]]
    save_plot(found, 12.0, tmp_path / "new" / "goodput.png")
    assert (tmp_path / "new" / "goodput.png").read_bytes().startswith(b"\x89PNG")


def test_the_tail_is_a_mean_over_arrivals_of_ours_and_of_cronus(tmp_path: Path) -> None:
    first = Job("a100-a10-llama", "headstart", 0.0, Path("trace.csv"), 1000, 0)
    runs = Runs(tmp_path / "kept.jsonl", 1)
    runs._keep(replace(first, policy="cronus"), _figures("cronus", 1.0))
    for policy, step in (("headstart", 0.1), ("cronus", 0.2)):
        for rate in rates(first, runs)[:2]:
            for seed, job in enumerate(tail_jobs(replace(first, policy=policy, rate=rate), 3)):
                assert job.seed == seed
                runs._keep(job, replace(_figures(policy, 1.0), ttft=(0.1, 0.2, 1.0 + step * seed)))
    assert tail_jobs(replace(first, policy="high-only", rate=8.0), 3) == tail_jobs(replace(first, rate=LOW_RATE), 3) == []
    eighty, ninety_five = tail_rows(first, runs, 3)
    assert eighty.ours == pytest.approx(1.1)
    assert eighty.other == pytest.approx(1.2)
    assert not eighty.holds
    assert ninety_five.name == "a100-a10-llama: TTFT p99 at 95% load, mean of 3"


def test_a_flood_is_served_in_the_order_that_is_asked_for(job: Job) -> None:
    cell = replace(job, cell="a100-a10-llama")
    rates = [requests_per_s(cell, order) for order in ORDERS]
    assert rates[0] == run(cell).requests_per_s
    assert len(set(rates)) > 1, "an order changes when the last answer ends"
    found = rows([cell], rates)
    assert [row.ours for row in found] == rates
    assert [row.target is None for row in found] == [False, True, True, True, True]


def test_each_order_begins_with_whom_it_names() -> None:
    flood = [Arrival(0.0, *lengths) for lengths in ((30, 2), (10, 3), (40, 3), (20, 4), (25, 1))]
    first = {order: flood.index(min(flood, key=key)) for order, key in ORDERS.items()}
    assert first == {
        "order of arrival": 0,
        "longest answer first": 3,
        "shortest answer first": 4,
        "longest prompt first": 2,
        "shortest prompt first": 1,
    }
