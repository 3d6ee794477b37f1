"""Trials of a link over real UCX, between two movers: what comes of them is a figure, and nothing but zeros leaves a worker."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest

from shared.messages import Control, Pull, WorkerInfo
from shared.profile import Profile
from shared.types import GRANULE_TOKENS, TokenSpan, TransferId, WorkerId, WorkerRef
from tests.support.one_process import working
from tests.support.waiting import eventually
from workers.events import LinkProbed, PullEnded, SendEnded, StartPull
from workers.fake_engine import FakeEngine
from workers.link_fit import growing_sizes
from workers.link_probe import AFTER_FAILURE_S, AGAIN_S, PROBE, PROBE_TRANSFERS, ROUNDS, LinkProbe, answer_to, is_trial
from workers.loop import LoopSettings, WorkerLoop
from workers.loopback_transport import LoopbackHub
from workers.mover import Mover
from workers.tickets import Tickets
from workers.ucx_transport import UcxTransport

pytestmark = pytest.mark.xdist_group("ucx")

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
STAGING = 1 << 20
GIVER, TAKER = WorkerRef(WorkerId("giver"), "1"), WorkerRef(WorkerId("taker"), "1")
PROFILE = Profile(0.01, 1e-5, 0.0, 1e-3, 0.0, 16)


def member(ref: WorkerRef, host: str, engine: FakeEngine, fingerprint: bytes = b"") -> WorkerInfo:
    return WorkerInfo(ref, "m", fingerprint or engine.kv.fingerprint, "cpu", host, PROFILE, 16, 64, 4, 64, 1000)


class Pair:
    """A taker that tries the link from a giver; both over UCX, messages handed over by hand."""

    def __init__(self, staging_bytes: int = STAGING) -> None:
        self.engine = FakeEngine(total_blocks=64)
        self.staging_bytes, self.refused = staging_bytes, 0
        self.events: queue.SimpleQueue[PullEnded | SendEnded] = queue.SimpleQueue()
        self.asked: list[Pull] = []
        self.giver = Mover(GIVER, self.engine, UcxTransport(GIVER, staging_bytes), lambda _, message: None, lambda _: None)
        self.taker = Mover(TAKER, self.engine, UcxTransport(TAKER, staging_bytes), self.ask, self.events.put)
        granule_bytes = GRANULE_TOKENS * self.engine.kv.bytes_per_token
        self.probe = LinkProbe(TAKER, self.engine.kv.fingerprint, granule_bytes, staging_bytes, self.taker.put)
        self.giver.start()
        self.taker.start()

    def ask(self, _: WorkerRef, message: Control) -> None:
        """As `WorkerLoop` does with a trial's pull."""
        assert isinstance(message, Pull)
        assert message.assist == PROBE
        self.asked.append(message)
        answer = answer_to(message, self.engine.kv.fingerprint, self.staging_bytes, self.engine.kv.bytes_per_token)
        assert answer is not None
        self.giver.put(answer)

    def until_ended(self) -> LinkProbed | None:
        """Every transfer's end is fed back, until one of them says something or nothing more comes."""
        while True:
            event = self.events.get(timeout=30)
            assert is_trial(event)
            assert isinstance(event, PullEnded)
            before = len(self.asked)
            if (probed := self.probe.ended(event, perf_counter())) is not None or event.error:
                return probed
            assert event.good_tokens % GRANULE_TOKENS == 0
            assert len(self.asked) >= before

    def stop(self) -> None:
        self.taker.stop()
        self.giver.stop()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.stop()


def test_a_new_host_is_measured_with_real_transfers_once(pair: Pair) -> None:
    here, there = member(TAKER, "here", pair.engine), member(GIVER, "there", pair.engine)
    pair.probe.look([here, there], perf_counter())
    probed = pair.until_ended()
    assert probed is not None
    assert probed.host == "there"
    assert 0 <= probed.link_s < 10
    assert 1e3 < probed.link_bytes_per_s < 1e13
    sizes = {len(pull.span) // GRANULE_TOKENS for pull in pair.asked}
    assert sizes == set(growing_sizes(STAGING // 16 // 1024))
    assert max(sizes) == 64 * min(sizes)
    assert len(pair.asked) == 1 + ROUNDS * len(sizes)
    assert all(pull.transfer > PROBE_TRANSFERS for pull in pair.asked)
    pair.probe.look([here, there], perf_counter())
    assert len(pair.asked) == 1 + ROUNDS * len(sizes), "it is known"


def test_what_cannot_be_measured_is_tried_again_later(pair: Pair) -> None:
    strangers = [member(GIVER, "there", pair.engine, b"another layout"), member(TAKER, "here", pair.engine)]
    pair.probe.look(strangers, 0.0)
    assert not pair.asked
    started: list[StartPull] = []
    probe = LinkProbe(TAKER, pair.engine.kv.fingerprint, 1024, STAGING, started.append)
    peers = [member(GIVER, "there", pair.engine)]
    probe.look(peers, 0.0)
    probe.look(peers, 1.0)
    assert len(started) == 1, "one transfer at a time"
    assert probe.ended(PullEnded(started[0].transfer, 0, 0, 0.0, "refused"), 2.0) is None
    probe.look(peers, 2.0 + AFTER_FAILURE_S / 2)
    assert len(started) == 1
    probe.look(peers, 2.0 + AFTER_FAILURE_S)
    assert len(started) == 2
    assert probe.ended(PullEnded(started[0].transfer, 64, 1024, 0.0), 40.0) is None, "an earlier transfer's late end"
    assert AFTER_FAILURE_S < AGAIN_S


def test_a_peer_with_a_smaller_arena_is_measured_with_smaller_transfers() -> None:
    engine, started, now = FakeEngine(), list[StartPull](), 0.0
    probe = LinkProbe(TAKER, engine.kv.fingerprint, 1024, STAGING, started.append)
    probe.look([member(GIVER, "there", engine)], now)
    probed: LinkProbed | None = None
    while probed is None:
        granules = len(started[-1].span) // GRANULE_TOKENS
        now += 0.5 if len(started) == 1 else 0.001 + granules * 1e-4
        good = 64 * granules if granules <= 4 else 0
        probed = probe.ended(PullEnded(started[-1].transfer, good, 0, 0.0, "" if good else "refused"), now)
    assert probed.host == "there"
    assert probed.link_s == pytest.approx(0.001)
    assert probed.link_bytes_per_s == pytest.approx(1024 / 1e-4)
    assert sum(len(start.span) > 4 * GRANULE_TOKENS for start in started) == 1


def test_a_trial_may_not_ask_for_more_than_a_trial_needs_nor_for_another_layout() -> None:
    engine = FakeEngine()
    layout, per_token = engine.kv.fingerprint, engine.kv.bytes_per_token
    pull = Pull(TransferId(PROBE_TRANSFERS + 1), PROBE, "", 1, TokenSpan(0, 64), TAKER, b"", layout)  # type: ignore[arg-type]
    answer = answer_to(pull, layout, STAGING, per_token)
    assert answer is not None
    assert answer.blocks == ()
    assert answer_to(pull, b"another", STAGING, per_token) is None
    assert answer_to(replace(pull, span=TokenSpan(0, 1)), layout, STAGING, per_token) is None
    assert answer_to(replace(pull, span=TokenSpan(0, 64 * (STAGING // 16 // 64 // per_token + 1))), layout, STAGING, per_token) is None


def test_nothing_but_zeros_leaves_the_sender(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where its arena held something before."""
    sent: list[bytes] = []
    send = UcxTransport.send

    def spy(transport: UcxTransport, header: object, requester: object, address: bytes, payload: memoryview, deadline_s: float) -> None:
        sent.append(bytes(payload))
        send(transport, header, requester, address, payload, deadline_s)  # type: ignore[arg-type]

    monkeypatch.setattr(UcxTransport, "send", spy)
    whole = pair.giver._transport.stage(STAGING // 2)
    whole[:] = b"\x5a" * len(whole)
    pair.giver._transport.unstage(whole)
    pair.probe.look([member(GIVER, "there", pair.engine)], perf_counter())
    assert pair.until_ended() is not None
    assert sent
    assert not any(map(any, sent))


async def test_workers_try_the_links_to_one_another_and_who_has_no_ticket_learns_nothing(valkey_url: str) -> None:
    hub, habits = LoopbackHub(immediate=True), LoopSettings(member_s=0.05, staging_bytes=STAGING)

    def known(loop: WorkerLoop) -> set[str]:
        assert loop.core.links is not None
        return {link.host for link in loop.core.links.told()}

    async with (
        working(valkey_url, WEIGHTS, "one", hub, habits=habits) as one,
        working(valkey_url, WEIGHTS, "two", hub, habits=habits) as two,
    ):

        async def both_know() -> bool:
            return known(one) == known(two) == {socket.gethostname()}

        await eventually(both_know)
        other = Tickets.of_pool("default", "somebody else's secret", "")
        async with working(valkey_url, WEIGHTS, "stranger", hub, tickets=other, habits=habits) as stranger:

            async def was_refused() -> bool:
                return stranger._probe._trial is None and bool(stranger._probe._tried)

            await eventually(was_refused)
            assert known(stranger) == set()
            one.core.check()
