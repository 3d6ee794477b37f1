"""What is launched where, and who is drained, for given agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.scale import describe
from cli.scale_kinds import kinds_of
from cli.scale_plan import Action, Kind, Launch, NoRoom, Stop, plan_scale
from shared.errors import ConfigError
from shared.messages import AgentInfo, ManagedState, ManagedWorker

KINDS = {"low": Kind("low"), "high": Kind("high")}


def agent(host: str, *rows: ManagedWorker, accelerators: tuple[str, ...] = ()) -> AgentInfo:
    return AgentInfo(host, "i", f"default.{host}", 1, accelerators, 4, rows)


def row(name: str, state: ManagedState = ManagedState.RUNNING, device: str = "cpu") -> ManagedWorker:
    return ManagedWorker(name, name.split("-")[1], state, 7, 0, ("--device", device))


def launches(actions: list[Action]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(action.agent.host, action.spec.name, action.spec.options) for action in actions if isinstance(action, Launch)]


def stops(actions: list[Action]) -> list[str]:
    return [action.worker.name for action in actions if isinstance(action, Stop)]


def test_the_emptiest_host_is_next_and_high_takes_accelerators_first() -> None:
    actions = plan_scale([agent("a", accelerators=("cuda:0",)), agent("b")], KINDS, {"high": 2, "low": 2})
    assert launches(actions) == [
        ("a", "a-high-1", ("--device", "cuda:0")),
        ("b", "b-high-1", ("--device", "cpu")),
        ("a", "a-low-1", ("--device", "cpu")),
        ("b", "b-low-1", ("--device", "cpu")),
    ]


def test_what_is_there_counts_and_what_is_not_asked_for_stays() -> None:
    agents = [agent("a", row("a-low-1"), row("a-high-1"), row("a-low-2", ManagedState.BACKING_OFF))]
    assert plan_scale(agents, KINDS, {"low": 2}) == []
    assert launches(plan_scale(agents, KINDS, {"low": 3})) == [("a", "a-low-3", ("--device", "cpu"))]


def test_the_newest_on_the_fullest_host_leaves_first() -> None:
    agents = [agent("a", row("a-low-9"), row("a-low-10")), agent("b", row("b-low-1"))]
    assert stops(plan_scale(agents, KINDS, {"low": 1})) == ["a-low-10", "b-low-1"]
    assert sorted(stops(plan_scale(agents, KINDS, {"low": 0}))) == ["a-low-10", "a-low-9", "b-low-1"]


def test_who_drains_is_neither_counted_nor_stopped_again_and_keeps_its_name() -> None:
    agents = [agent("a", row("a-low-1", ManagedState.DRAINING))]
    assert plan_scale(agents, KINDS, {"low": 0}) == []
    assert launches(plan_scale(agents, KINDS, {"low": 1})) == [("a", "a-low-2", ("--device", "cpu"))]


def test_who_was_given_up_is_cleared_away_and_replaced() -> None:
    actions = plan_scale([agent("a", row("a-low-1", ManagedState.GIVEN_UP))], KINDS, {"low": 1})
    assert stops(actions) == ["a-low-1"]
    assert launches(actions) == [("a", "a-low-2", ("--device", "cpu"))]


def test_devices_and_hosts_bound_a_kind() -> None:
    kinds = {"high": Kind("high", devices=("cuda:0", "cuda:1"), hosts=("a",))}
    actions = plan_scale([agent("a", row("a-high-1", device="cuda:0")), agent("b")], kinds, {"high": 4})
    assert launches(actions) == [("a", "a-high-2", ("--device", "cuda:1"))]
    assert actions[-1] == NoRoom("high", 2)
    assert "2 more high" in describe(actions[-1])


def test_kinds_come_from_a_file_and_from_options(tmp_path: Path) -> None:
    file = tmp_path / "workers.toml"
    file.write_text('[high]\ndevices = ["cuda:0"]\ndtype = "bfloat16"\n[low]\nthreads = 2\nmodel = "/m"\n')
    kinds = kinds_of(file, {"low": "--slowdown 3", "high": ""})
    assert kinds["high"] == Kind("high", ("--dtype", "bfloat16"), devices=("cuda:0",))
    assert kinds["low"] == Kind("low", ("--threads", "2", "--slowdown", "3"), model="/m")


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[medium]\n", "'medium' is no kind"),
        ("[low]\ndevices = 'cpu'\n", r"\[low\] devices must be a list"),
        ("[low]\nthreads = [1]\n", r"\[low\] threads"),
        ("[low]\nthread = 1\n", "kind low.*--thread"),
        ("[low]\nslowdown = 0.5\n", "kind low"),
        ("[high]\ndevices = ['gpu']\n", "'gpu' is no device"),
        ("[high]\nname = 'x'\n", "--name is said by the agent"),
        ("nonsense", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_before_anybody_is_asked(tmp_path: Path, toml: str, told: str) -> None:
    file = tmp_path / "workers.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError, match=told):
        kinds_of(file, {})
