"""The parts of `benchmarks.balance` that decide what its figures mean: the trace's scaling, the quota, the pairing of rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from benchmarks import balance
from benchmarks import rows as benchmark_rows
from benchmarks.balance_cell import Cell, Stolen, quantiles, steady
from benchmarks.balance_cgroup import PERIOD_US, PREFIX, Controller, CpuGroup, candidates, find_controller, group_name, remove_forgotten
from benchmarks.balance_figures import Cells, rows
from benchmarks.balance_load import Answer
from benchmarks.balance_system import Rig
from benchmarks.balance_trace import Ask, asks, scaled
from benchmarks.intervals import quantile_ratio_interval, ratio_interval
from scheduler.simulation.serving.trace import Arrival
from shared.fabric import LoggedEntry
from shared.messages import LogEnd, LogTokens
from shared.types import Phase, RequestId

WINDOW = 2048

# -- the trace


def test_lengths_are_scaled_and_none_vanishes() -> None:
    arrivals = [Arrival(0.0, 1000, 240), Arrival(1.5, 1, 1)]
    assert scaled(arrivals, 0.25, WINDOW) == [Arrival(0.0, 250, 60), Arrival(1.5, 1, 1)]


def test_what_is_longer_than_the_window_is_cut_to_fit() -> None:
    (long,) = scaled([Arrival(0.0, 14_000, 9_000)], 1.0, WINDOW)
    assert long.output_tokens == WINDOW // 2
    assert long.prompt_tokens + long.output_tokens < WINDOW


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        scaled([Arrival(0.0, 10, 10)], share, WINDOW)


def test_prompts_are_as_long_as_asked_and_begin_unlike_those_of_another_cell() -> None:
    arrivals = [Arrival(0.0, 100, 5), Arrival(2.0, 64, 7)]
    first, again, other = (asks(arrivals, range(300, 2048), "cell", seed) for seed in (1, 1, 2))
    assert first == again
    assert [(len(one.prompt), one.output_tokens, one.at_s) for one in first] == [(100, 5, 0.0), (64, 7, 2.0)]
    assert all(300 <= token < 2048 for one in first for token in one.prompt)
    assert all(mine.prompt[:16] != theirs.prompt[:16] for mine, theirs in zip(first, other, strict=True))


# -- the quota


def version_1(root: Path) -> Path:
    (root / "cpu").mkdir()
    (root / "cpu" / "cgroup.procs").touch()
    return root


def version_2(root: Path) -> Path:
    (root / "cgroup.controllers").write_text("cpuset cpu memory\n")
    return root


def test_both_versions_are_recognised_the_first_first(tmp_path: Path) -> None:
    version_2(version_1(tmp_path))
    assert candidates(tmp_path) == [Controller(tmp_path / "cpu", 1), Controller(tmp_path, 2)]


def test_a_unified_hierarchy_without_cpu_is_none(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    assert candidates(tmp_path) == []
    assert "no cgroup controller" in str(find_controller(tmp_path))


def test_where_no_quota_can_be_written_the_reason_is_told(tmp_path: Path) -> None:
    """In a plain folder groups can be made, but hold no control files that a `rmdir` would leave out."""
    version_1(tmp_path)
    (tmp_path / "cpu" / group_name("probe")).touch()
    assert "cgroup v1" in str(find_controller(tmp_path))


@pytest.mark.parametrize(
    ("version", "files"),
    [(1, {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "3000"}), (2, {"cpu.max": "3000 10000"})],
)
def test_a_share_is_written_in_the_version_s_words(tmp_path: Path, version: int, files: dict[str, str]) -> None:
    Controller(tmp_path, version).limit(tmp_path, 0.3)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files
    assert PERIOD_US == 10_000


@pytest.mark.parametrize(
    ("version", "stat"), [(1, "nr_periods 9\nthrottled_time 2500000000\n"), (2, "usage_usec 7\nthrottled_usec 2500000\n")]
)
def test_time_at_a_standstill_is_seconds_in_both(tmp_path: Path, version: int, stat: str) -> None:
    group = CpuGroup(Controller(tmp_path, version), "one", 0.3)
    group.path.mkdir()
    (group.path / "cpu.stat").write_text(stat)
    assert group.throttled_s() == 2.5


def test_here_a_group_limits_or_the_reason_is_told() -> None:
    """The machine's own: where a controller is found, a group with a limit can be made and is gone afterwards."""
    found = find_controller()
    if isinstance(found, str):
        assert "cgroup" in found
        return
    with CpuGroup(found, group_name("test"), 0.3) as group:
        assert group.procs.exists()
        assert group.throttled_s() == 0
    assert not group.path.exists()


def test_groups_of_the_dead_are_removed_and_no_others(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"{PREFIX}{dead.pid}-high", group_name("low"), "somebody-else"]
    for name in names:
        (tmp_path / name).mkdir()
    assert remove_forgotten(Controller(tmp_path, 1)) == names[:1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


# -- what a client saw


def test_an_answer_s_times_are_from_when_it_was_due() -> None:
    answer = Answer(Ask(RequestId("a"), (1,), 4, 0.0), due=10.0, submitted=10.2)
    answer.hear([LoggedEntry("1-0", LogTokens(0, 0, (5,), ""))], 11.0)
    answer.hear([LoggedEntry("2-0", LogTokens(0, 1, (6, 7), "")), LoggedEntry("2-1", LogTokens(0, 3, (8,), ""))], 12.0)
    answer.hear([LoggedEntry("3-0", LogEnd(Phase.FINISHED))], 12.5)
    assert answer.ttft_s == 1.0
    assert answer.gaps_s == [0.5, 0.5, 0.0]
    assert (answer.tokens, answer.position, answer.ended) == (4, "3-0", Phase.FINISHED)


def test_the_steady_rate_leaves_out_filling_and_draining() -> None:
    ends = [5.0, *(5.0 + at * 0.1 for at in range(1, 19)), 60.0]
    assert steady(ends) == pytest.approx(10.0)
    assert quantiles(()) == (0.0, 0.0)


# -- rounds in pairs


def test_a_machine_that_was_slow_in_one_round_moves_no_ratio() -> None:
    """Ours is always a tenth quicker; round 3 was three times as slow for both."""
    theirs = [10.0, 10.0, 30.0, 10.0, 10.0]
    interval = ratio_interval([1.1 * rate for rate in theirs], theirs)
    assert (interval.low, interval.ratio, interval.high) == pytest.approx((1.1, 1.1, 1.1))
    slow = [[rate * part for part in range(1, 101)] for rate in theirs]
    tail = quantile_ratio_interval([[0.9 * sample for sample in samples] for samples in slow], slow, 99)
    assert (tail.low, tail.ratio, tail.high) == pytest.approx((0.9, 0.9, 0.9))


def test_a_tail_that_only_some_rounds_have_widens_the_interval() -> None:
    calm, wild = [1.0] * 100, [1.0] * 90 + [3.0] * 10
    tail = quantile_ratio_interval([calm, calm, calm, wild, wild], [calm] * 5, 99)
    assert tail.low == 1.0
    assert tail.high == 3.0


def test_rounds_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        quantile_ratio_interval([[1.0]], [[1.0], [1.0]], 99)


# -- what is promised


def cell(policy: str, round_: int, rate: float, *, load: float = 0.0, ttft: float = 1.0) -> Cell:
    return Cell(
        policy=policy,
        round=round_,
        load=load,
        seconds=10.0,
        requests_per_s=rate,
        tokens_per_s=rate,
        steady_per_s=rate,
        ttft_s=(ttft,) * 10,
        gaps_s=(0.05,) * 10,
        late_s=0.0,
        cut_tokens=0.0,
        cut_share=0.0,
        moved_mib=0.0,
        head_starts={"given": 0, "taken": 0, "wasted": 0},
        step_ms={"high": 1.0, "low": 1.0},
        served={"high": 1, "low": 0},
        preemptions=0,
        cpu_s={"high": 1.0, "load": 1.0},
        throttled_s={},
    )


@pytest.mark.parametrize(
    ("stolen", "kept", "tries"), [([0.01], 0.01, 1), ([0.4, 0.02], 0.02, 2), ([0.4, 0.2, 0.3], 0.2, 3)], ids=["quiet", "once", "always"]
)
async def test_a_cell_whose_machine_was_busy_for_others_is_measured_again(
    stolen: list[float], kept: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    async def measured(rig: Rig, policy: str, arrivals: list[Arrival], *, round_: int, load: float, seed: int) -> Cell:
        seeds.append(seed)
        return replace(cell(policy, round_, 1.0, load=load), stolen=stolen[len(seeds) - 1])

    monkeypatch.setattr(balance, "measure", measured)
    found = await balance.undisturbed(cast(Rig, None), "headstart", [], round_=3, load=0.8, seed=5)
    assert (found.stolen, found.round, found.load) == (kept, 3, 0.8)
    assert len(seeds) == len(set(seeds)) == tries, "other prompts each time, or the caches would hold them"


async def test_ours_and_the_best_variant_run_more_rounds_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    async def measured(rig: Rig, policy: str, arrivals: list[Arrival], *, round_: int, load: float, seed: int) -> Cell:
        return cell(policy, round_, RATES[policy], load=load)

    monkeypatch.setattr(balance, "measure", measured)
    policies = ["--policies", "headstart", "high-only", "data-parallel-least-work"]
    options = balance.parsed(["--trace", "none", "--rounds", "2", "--tail-rounds", "3", "--loads", "0.8", *policies])
    found = await balance._measured(cast(Rig, None), [Arrival(0.0, 10, 10), Arrival(1.0, 10, 10)], options)
    assert {(policy, load): len(found.of(policy, load)) for policy in RATES for load in (0.0, 0.8) if found.of(policy, load)} == {
        ("headstart", 0.0): 2,
        ("high-only", 0.0): 2,
        ("data-parallel-least-work", 0.0): 2,
        ("headstart", 0.8): 3,
        ("data-parallel-least-work", 0.8): 3,
    }


def test_what_the_host_takes_is_a_share() -> None:
    assert 0.0 <= Stolen().share() <= 1.0


RATES = {
    "headstart": 10.0,
    "high-only": 9.0,
    "disagg-low-high": 4.0,
    "disagg-high-low": 5.0,
    "data-parallel-least-work": 10.2,
    "cronus": 7.0,
}


def test_rows_compare_with_the_better_of_each_kind_and_say_what_is_missed() -> None:
    made = [cell(policy, round_, rate) for policy, rate in RATES.items() for round_ in range(2)]
    made += [cell(policy, 0, 8.0, load=0.8, ttft=ttft) for policy, ttft in (("headstart", 1.2), ("data-parallel-least-work", 1.0))]
    found = {(row.name, row.other_name): row for row in rows(Cells(made))}
    throughput = {other: (row.target, row.holds) for (name, other), row in found.items() if name.startswith("throughput")}
    assert throughput["disagg-high-low"] == (1.2, True)
    assert throughput["high-only"] == (1.15, False)
    assert throughput["data-parallel-least-work"] == (0.97, True)
    assert throughput["cronus"] == (None, None)
    bounds = {name: row.holds for (name, _), row in found.items() if "upper bound" in name}
    assert bounds["TTFT p99, at 80% load: upper bound of the ratio"] is False
    assert bounds["ITL p99, at 80% load: upper bound of the ratio"] is True


def test_without_ours_there_is_nothing_to_compare() -> None:
    assert rows(Cells([cell("high-only", 0, 1.0)])) == []


def test_a_full_run_writes_rows_cells_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark_rows, "RESULTS", tmp_path)
    made = [cell(policy, round_, rate) for policy, rate in RATES.items() for round_ in range(2)]
    balance.report(Cells([*made, cell("headstart", 0, 8.0, load=0.8)]), quick=False)
    written = {row["other_name"]: row for row in json.loads((tmp_path / "balance.json").read_text())}
    assert written["high-only"]["holds"] is False
    assert written["high-only"]["interval"] == pytest.approx([10 / 9, 10 / 9])
    cells = json.loads((tmp_path / "balance_cells.json").read_text())
    assert [one["itl_s"] for one in cells] == [[0.05, 0.05]] * len(cells)
    assert (tmp_path / "balance.png").read_bytes().startswith(b"\x89PNG")
