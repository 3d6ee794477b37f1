"""The machine that judges must be able to say no."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from shared.fabric import LogHead
from shared.messages import LogEnd, LogTokens
from shared.types import Phase, RequestId, RequestSpec, SamplingParams
from tests.machine.__main__ import _arguments, needed_kills
from tests.machine.clients import Tally
from tests.machine.cluster import Cluster
from tests.machine.door import Door, Twice, Wrong
from tests.machine.oracle import MODEL, Oracle
from tests.machine.plan import HEAL_S, NETWORK, NETWORK_BLOWS, SERVER, SERVER_BLOWS, Blow, draw_faults
from tests.machine.probe import Probe
from tests.machine.run import Plan, Result
from tests.machine.wear import Wear
from tests.support.model_fabric import ModelFabric
from workers.fake_engine import reference_tokens

TARGETS = (SERVER, NETWORK, "gateway-1", "gateway-2", "scheduler-1", "scheduler-2", "high-1", "high-2", "low-1", "low-2")
ID = RequestId("a")
PROMPT = (5, 6, 7)
SAMPLING = SamplingParams(8, temperature=0.0, ignore_eos=True)
RIGHT = reference_tokens(PROMPT, SAMPLING, MODEL)
FINISHED = LogEnd(Phase.FINISHED, "", "", 0)


def words(tokens: tuple[int, ...]) -> str:
    return "".join(f"w{token}" for token in tokens)


async def logged(tokens: tuple[int, ...], end: LogEnd = FINISHED) -> Oracle:
    fabric = ModelFabric()
    spec = RequestSpec(ID, "under-attack", PROMPT, SAMPLING, 0)
    fabric.model.create_log(LogHead(spec, "{}", ""))
    fabric.model.append(ID, 1, (LogTokens(0, 0, tokens, words(tokens)),), end)
    return Oracle(fabric.as_fabric())  # type: ignore[arg-type]


async def test_a_right_answer_is_right() -> None:
    assert await (await logged(RIGHT)).judge(ID, "", {0: words(RIGHT)}, whole=True) is Phase.FINISHED


async def test_a_cancelled_one_may_be_short() -> None:
    oracle = await logged(RIGHT[:3], LogEnd(Phase.CANCELLED, "", "", 0))
    assert await oracle.judge(ID, "", {0: words(RIGHT[:2])}, whole=False) is Phase.CANCELLED


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ((*RIGHT[:-1], RIGHT[-1] ^ 1), None),
        (RIGHT[:-1], None),
        ((*RIGHT, 5), None),
        (RIGHT, words(RIGHT[:-1])),
        (RIGHT, words((*RIGHT, RIGHT[-1]))),
    ],
    ids=["a wrong token", "a token short", "one too many", "the client was told less", "the client was told a token twice"],
)
async def test_a_wrong_answer_is_seen(tokens: tuple[int, ...], told: str | None) -> None:
    with pytest.raises(Wrong):
        await (await logged(tokens)).judge(ID, "", {0: words(tokens) if told is None else told}, whole=True)


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CANCELLED])
async def test_an_answer_that_nobody_asked_to_end_must_finish(phase: Phase) -> None:
    with pytest.raises(Wrong, match=str(phase)):
        await (await logged(RIGHT[:3], LogEnd(phase, "", "", 0))).judge(ID, "", None, whole=True)


async def test_a_models_answer_is_what_it_was_before() -> None:
    oracle = await logged(RIGHT)
    oracle.truth = {"asked": ["something else"]}
    with pytest.raises(Wrong, match="something else"):
        await oracle.judge(ID, "asked", None, whole=True)


def test_a_seed_strikes_everybody_and_the_same_way_each_time() -> None:
    faults = draw_faults(3, TARGETS, 300.0, 5.0)
    assert faults == draw_faults(3, TARGETS, 300.0, 5.0) != draw_faults(4, TARGETS, 300.0, 5.0)
    assert {fault.target for fault in faults} == set(TARGETS)
    assert sum(fault.blow is Blow.KILL for fault in faults) >= 30
    assert {fault.blow for fault in draw_faults(3, TARGETS, 3000.0, 5.0)} == set(Blow)
    assert {fault.blow for fault in faults if fault.target == SERVER} <= {Blow.KILL, *SERVER_BLOWS}
    assert {fault.blow for fault in faults if fault.target == NETWORK} <= set(NETWORK_BLOWS)


def test_nobody_is_struck_before_it_has_healed() -> None:
    last: dict[str, float] = {}
    for fault in draw_faults(5, TARGETS, 600.0, 2.0):
        assert fault.at_s >= last.get(fault.target, 0.0)
        last[fault.target] = fault.at_s + fault.seconds + HEAL_S


async def test_a_token_that_is_there_twice_is_told_from_a_wrong_one() -> None:
    oracle = await logged(RIGHT[:3])
    oracle.fabric.model._state.logs[ID].entries.items[0] = LogTokens(0, 0, RIGHT[:3], "")  # type: ignore[attr-defined]
    oracle.fabric.model._state.logs[ID].entries.items.insert(1, LogTokens(0, 2, RIGHT[2:3], ""))  # type: ignore[attr-defined]
    oracle.fabric.model._state.logs[ID].entries.ids.insert(1, oracle.fabric.model._state.logs[ID].entries.ids[0])  # type: ignore[attr-defined]
    with pytest.raises(Twice, match="index 2 follows 3"):
        await oracle.judge(ID, "", None, whole=True)


def test_a_count_that_fell_back_is_a_loss_and_an_answer_that_never_came_is_none() -> None:
    probe = Probe()
    for at in range(100):
        probe.written += 1
        probe._times.append(at / 100)
    probe.note(101)
    assert (probe.lost, probe.written, probe.deaths) == (0, 101, 1)
    probe.written = 100
    probe.note(90)
    assert probe.lost == 10
    assert probe.window_s == pytest.approx(0.09)
    assert "10 of 100 acknowledged writes lost in 2 deaths" in probe.line("default mode")


@pytest.mark.parametrize(("wanted", "holds"), [(0, True), (5, True), (6, False)])
def test_a_run_with_too_few_kills_has_shown_nothing(wanted: int, holds: bool) -> None:
    cluster = Cluster(Path(), Path())
    cluster.kills.update(high=3, server=2)
    result = Result(Tally(), cluster, Door((), httpx2.AsyncClient()), Wear(), Plan(1, 60.0, 6.0, 2, need_kills=wanted))
    assert result.holds is holds
    result.tally.twice.append("x")
    assert not result.holds


@pytest.mark.parametrize(
    ("options", "kills"), [(["--seconds", "300"], 30), (["--seconds", "60"], 0), (["--model", "."], 5), (["--need-kills", "7"], 7)]
)
def test_how_many_kills_a_run_needs(options: list[str], kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["machine", *options])
    assert needed_kills(_arguments()) == kills
