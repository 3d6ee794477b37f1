"""Head starts given and pulled, one rule of `docs/protocol.md` per test."""

from __future__ import annotations

from typing import Any

import pytest

from shared.messages import AbandonTransfer, AssistState, Cancel, Pull, PullRefused, ReleaseAssist, Source, StopAssist
from shared.profile import Profile
from shared.types import AssistId, BlockId, Phase, RequestId, TokenSpan, TransferId
from tests.support.core_bench import ASSISTED, ME, PEER, SPEC, Bench, R, chunks, of
from tests.support.core_harness import make_spec
from workers.events import (
    AbandonPull,
    DropOutput,
    DropPeer,
    EndRequest,
    Launch,
    OpenOutput,
    PeerLost,
    PullEnded,
    SendEnded,
    SendKv,
    StartPull,
    Superseded,
    TellWorker,
    Tick,
    WorkerEvent,
)

# --- head starts ---------------------------------------------------------------------------------------------------

GIVEN_UP = TellWorker(PEER, AbandonTransfer(TransferId(1), ME))
"""So that the sender need not send what nobody waits for."""


def test_a_head_start_offers_whole_granules_and_reports_each_rise_at_once() -> None:
    bench = Bench(token_budget=100)
    bench.order(ASSISTED, limit=200)
    offered = []
    while bench.launched:
        bench.step()
        offered.append(bench.reports[-1].assists)
    assert [states[0].offered for states in offered] == [64, 192]
    assert bench.core.assists[AssistId("a")].sequence.num_computed == 192


def test_a_head_start_never_computes_the_last_token() -> None:
    bench = Bench(token_budget=1000)
    bench.order(make_spec("exact", 256))
    assert chunks(bench.launched[0]) == [(0, 192)]


def test_a_stopped_head_start_keeps_what_it_offers_and_a_released_one_nothing() -> None:
    bench = Bench(token_budget=64)
    bench.order(ASSISTED)
    bench.do(StopAssist(AssistId("a"), PEER))
    bench.step()
    assert bench.launched == []
    assert bench.reports[-1].assists == (AssistState(AssistId("a"), ASSISTED.request_id, 64, stopped=True),)
    bench.do(ReleaseAssist(AssistId("a")))
    assert bench.core.blocks.free_blocks == 40


def test_a_release_that_overtakes_its_order_is_remembered() -> None:
    bench = Bench()
    bench.do(ReleaseAssist(AssistId("a")))
    assert bench.order(ASSISTED) == []
    assert not bench.core.assists


def test_a_head_start_nobody_asks_for_expires_when_the_scheduler_is_silent() -> None:
    bench = Bench()
    bench.order(ASSISTED, limit=128)
    bench.step()
    bench.do(Cancel(RequestId("something else")), now=50.0)
    bench.do(Tick(), now=100.0)
    assert bench.core.assists
    bench.do(Tick(), now=111.0)
    assert bench.reports[-1].assists == ()
    assert bench.core.idle


def pull(**changes: Any) -> Pull:
    given = {"transfer": TransferId(1), "assist": AssistId("a"), "request_id": ASSISTED.request_id, "attempt": 2, "span": TokenSpan(0, 128)}
    return Pull(**{**given, "requester": PEER, "address": b"address", "fingerprint": b"layout", **changes})


def offering() -> Bench:
    """128 tokens are offered."""
    bench = Bench()
    bench.order(ASSISTED, limit=128)
    bench.step()
    return bench


def test_a_pull_is_answered_by_a_send_of_the_sequences_blocks() -> None:
    bench = offering()
    blocks = tuple(bench.core.assists[AssistId("a")].sequence.blocks)
    assert bench.do(pull()) == [SendKv(TransferId(1), ASSISTED.request_id, 2, PEER, b"address", TokenSpan(0, 128), blocks)]
    assert bench.do(pull()) == []
    bench.do(ReleaseAssist(AssistId("a")))
    assert bench.core.blocks.counts().in_flight == 8
    bench.do(SendEnded(TransferId(1), PEER))
    assert bench.core.blocks.free_blocks == 40
    assert bench.do(pull()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"assist": AssistId("b")}, "no such assist"),
        ({"request_id": RequestId("other")}, "the assist is of another request"),
        ({"span": TokenSpan(0, 192)}, "only 128 tokens are offered"),
        ({"span": TokenSpan(0, 100)}, "not whole granules"),
        ({"span": TokenSpan(64, 64)}, "not whole granules"),
        ({"fingerprint": b"other"}, "another KV layout"),
    ],
)
def test_a_pull_of_what_is_not_there_is_refused(changes: dict[str, Any], reason: str) -> None:
    bench = offering()
    assert bench.do(pull(**changes)) == [TellWorker(PEER, PullRefused(TransferId(1), ME, reason))]


def test_a_pull_behind_its_own_abandonment_is_nothing() -> None:
    bench = offering()
    bench.do(AbandonTransfer(TransferId(1), PEER))
    assert bench.do(pull()) == []


def test_owned_work_takes_the_memory_of_a_head_start_but_not_of_one_that_is_pulled() -> None:
    bench = Bench(total_blocks=10)
    bench.order(ASSISTED, limit=128)
    bench.step()
    bench.do(pull())
    bench.assign(SPEC)
    assert bench.launched[-1].plan.contexts.tolist() == [32]
    bench.do(SendEnded(TransferId(1), PEER))
    bench.step()
    assert chunks(bench.launched[-1]) == [(32, 68)]
    assert not bench.core.assists


# --- pulling -------------------------------------------------------------------------------------------------------

SOURCE = Source(AssistId("a"), PEER, 64)
RELEASE = TellWorker(PEER, ReleaseAssist(AssistId("a")))


def pulling(**changes: Any) -> Bench:
    bench = Bench(**changes)
    opened, start = bench.assign(SPEC, source=SOURCE)
    assert isinstance(opened, OpenOutput)
    assert start == StartPull(TransferId(1), R, 1, AssistId("a"), PEER, TokenSpan(0, 64), tuple(map(BlockId, range(4))), 2.0)
    return bench


def test_a_pulling_sequence_is_in_no_step_until_its_bytes_are_verified() -> None:
    bench = pulling()
    assert bench.core.blocks.counts().in_flight == 4
    release, launch = bench.do(PullEnded(TransferId(1), 64, 1024, 0.1))
    assert release == RELEASE
    assert isinstance(launch, Launch)
    assert chunks(launch) == [(64, 36)]


@pytest.mark.parametrize("good", [0, 63])
def test_bad_granules_are_recomputed(good: int) -> None:
    bench = pulling()
    release, launch = bench.do(PullEnded(TransferId(1), good, 0, 2.0, "digest"))
    assert release == RELEASE
    assert isinstance(launch, Launch)
    assert chunks(launch) == [(0, 100)]


def test_a_source_is_cut_to_whole_granules_and_never_holds_the_last_token() -> None:
    bench = Bench()
    whole = make_spec("whole", 128)
    _, start = bench.assign(whole, source=Source(AssistId("a"), PEER, 128))
    assert start.span == TokenSpan(0, 64)
    assert bench.assign(make_spec("short", 64), source=Source(AssistId("b"), PEER, 64))[1] == TellWorker(PEER, ReleaseAssist(AssistId("b")))


def test_the_deadline_of_a_pull_follows_the_profile_above_its_floor() -> None:
    slow = Profile(0.01, 0.0, 0.0, 0.0, 0.0, kv_bytes_per_token=1_000_000, link_s=1.0, link_bytes_per_s=64e6)
    bench = Bench(profile=slow)
    _, start = bench.assign(SPEC, source=SOURCE)
    assert start.deadline_s == pytest.approx(4 * (1.0 + 1.0))


@pytest.mark.parametrize("event", [PullRefused(TransferId(1), PEER, "gone"), PeerLost(PEER)])
def test_a_pull_without_hope_is_given_up_and_ends_with_its_event(event: WorkerEvent) -> None:
    bench = pulling()
    assert of(AbandonPull, bench.do(event)) == [AbandonPull(TransferId(1), PEER)]
    assert bench.core.blocks.counts().in_flight == 4
    assert chunks(of(Launch, bench.do(PullEnded(TransferId(1), 0, 0, 0.1, "abandoned")))[0]) == [(0, 100)]


def test_a_lost_peers_transport_side_is_destroyed() -> None:
    assert of(DropPeer, Bench().do(PeerLost(PEER))) == [DropPeer(PEER)]


def test_a_refusal_by_somebody_else_is_nothing() -> None:
    assert pulling().do(PullRefused(TransferId(1), ME, "gone")) == []


def test_a_transport_that_never_answers_is_asked_to_give_up() -> None:
    bench = pulling()
    assert bench.do(Tick(), now=3.9) == []
    assert bench.do(Tick(), now=4.0) == [AbandonPull(TransferId(1), PEER), GIVEN_UP]
    assert bench.do(Tick(), now=9.0) == []


def test_a_cancelled_pull_keeps_its_blocks_until_it_has_ended_and_releases_its_source() -> None:
    bench = pulling()
    assert bench.do(Cancel(R)) == [AbandonPull(TransferId(1), PEER), GIVEN_UP, EndRequest(R, 1, Phase.CANCELLED)]
    assert bench.core.blocks.counts().in_flight == 4
    assert bench.do(PullEnded(TransferId(1), 64, 1024, 0.1)) == [RELEASE]
    assert bench.core.blocks.free_blocks == 40


def test_an_attempt_that_is_over_leaves_the_head_start_to_the_next() -> None:
    bench = pulling()
    assert bench.do(Superseded(R, 1)) == [AbandonPull(TransferId(1), PEER), GIVEN_UP, DropOutput(R, 1)]
    assert bench.do(PullEnded(TransferId(1), 0, 0, 0.1, "abandoned")) == []
