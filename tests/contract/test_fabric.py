"""What `shared.fabric.Fabric` promises, of every fabric (three kinds of server, and the simulator's model): requests, streams, members."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.clock import SystemClock
from shared.fabric import Bound, Fabric, SubmitStatus, WriteStatus
from shared.fabric_settings import FabricSettings
from shared.messages import Cancel, CancelAsked, GatewayBeat, ListenerChange, ReleaseAssist, StoryLine
from shared.types import NO_GATEWAY, AssistId, Phase, RequestId
from tests.contract.words import (
    G1,
    G2,
    R1,
    R2,
    R3,
    W1,
    W2,
    accept,
    assign,
    head,
    info,
    lead,
    phase_of,
    report,
    run,
    submission,
)
from tests.support.waiting import eventually, eventually_now

NOBODY = RequestId("nobody")

# --- submission -------------------------------------------------------------------------------------------------------


async def test_an_accepted_request_waits_in_the_pool(fabric: Fabric) -> None:
    await accept(fabric)
    record = await fabric.record(R1)
    assert record is not None
    assert (record.phase, record.attempt, record.owner, record.cancel_asked, record.crashes) == (Phase.QUEUED, 1, None, False, 0)
    assert (record.submission, record.listener, record.num_tokens) == (submission(), G1, 3)
    assert [found for _, found in await fabric.read_submissions("0-0")] == [submission()]


async def test_submitting_again_is_accepted_once(fabric: Fabric) -> None:
    await accept(fabric)
    again = await fabric.submit(submission())
    assert (again.status, again.request_id) == (SubmitStatus.ACCEPTED, R1)
    assert len(await fabric.read_submissions("0-0")) == 1
    assert await fabric.head(R1) == head()


async def test_an_idempotency_key_leads_to_the_earlier_request(fabric: Fabric) -> None:
    await fabric.create_log(head(R1))
    first = await fabric.submit(submission(R1), idempotency_key="k", body_digest="d")
    await fabric.create_log(head(R2))
    second = await fabric.submit(submission(R2), idempotency_key="k", body_digest="d")
    assert (first.status, first.request_id) == (SubmitStatus.ACCEPTED, R1)
    assert (second.status, second.request_id) == (SubmitStatus.REPEATED, R1)
    assert await fabric.record(R2) is None
    assert await fabric.head(R1) == head(R1)


async def test_a_lost_answer_to_a_submission_with_a_key_keeps_its_log(fabric: Fabric) -> None:
    await fabric.create_log(head())
    for _ in range(2):
        answer = await fabric.submit(submission(), idempotency_key="k", body_digest="d")
        assert answer.request_id == R1
    assert await fabric.head(R1) == head()


async def test_an_idempotency_key_with_another_body_is_a_conflict(fabric: Fabric) -> None:
    await fabric.submit(submission(R1), idempotency_key="k", body_digest="d")
    answer = await fabric.submit(submission(R2), idempotency_key="k", body_digest="other")
    assert (answer.status, answer.request_id) == (SubmitStatus.CONFLICT, R1)
    assert await fabric.record(R2) is None


async def test_no_more_wait_than_the_leader_allows(fabric: Fabric) -> None:
    epoch = await lead(fabric)
    assert await fabric.publish_load(epoch, 0, 1, 7.0) is WriteStatus.DONE
    await accept(fabric, R1)
    busy = await fabric.submit(submission(R2))
    assert (busy.status, busy.request_id, busy.retry_after_s) == (SubmitStatus.BUSY, R2, 7.0)
    await fabric.place(epoch, W1, assign(epoch))
    await accept(fabric, R2)


@pytest.mark.parametrize("end", [Phase.CANCELLED, Phase.FAILED])
async def test_a_request_that_ended_while_waiting_makes_room(fabric: Fabric, end: Phase) -> None:
    await fabric.publish_load(await lead(fabric), 0, 1, 0.5)
    await accept(fabric, R1)
    refused = await fabric.submit(submission(R2))
    assert (refused.status, refused.retry_after_s) == (SubmitStatus.BUSY, 1.0)
    await fabric.close(R1, 1, end)
    await accept(fabric, R2)


async def test_too_long_a_predicted_wait_refuses(fabric: Fabric) -> None:
    await fabric.publish_load(await lead(fabric), 0, 100, 601.0)
    busy = await fabric.submit(submission())
    assert (busy.status, busy.retry_after_s) == (SubmitStatus.BUSY, 120.0)


async def test_a_predicted_wait_beyond_a_requests_own_target_refuses(fabric: Fabric) -> None:
    await fabric.publish_load(await lead(fabric), 0, 100, 5.0)
    wanted = replace(submission(), ttft_target_s=4.0)
    assert (await fabric.submit(wanted)).status is SubmitStatus.BUSY
    assert (await fabric.submit(replace(wanted, ttft_target_s=6.0))).status is SubmitStatus.ACCEPTED
    assert (await fabric.submit(submission(R2))).status is SubmitStatus.ACCEPTED


class TestTheLine:
    """The script's rules are the model's; `tests/unit/serving/test_overload.py` has them one by one."""

    @pytest.mark.parametrize(
        ("most", "wait_s", "takes", "kv_takes", "bound"),
        [
            (1, 0.0, 2.0, 9.0, Bound.WAITING),
            (5, 700.0, 2.0, 9.0, Bound.TIME),
            (5, 599.0, 4.0, 0.001, Bound.KV),
            (5, 599.0, 4.0, 9.0, None),
        ],
    )
    async def test_each_bound_has_its_name(
        self, fabric: Fabric, most: int, wait_s: float, takes: float, kv_takes: float, bound: Bound | None
    ) -> None:
        await accept(fabric, R1)
        await fabric.publish_load(await lead(fabric), 1, most, wait_s, takes, kv_takes)
        assert (await fabric.submit(submission(R2))).bound is bound

    async def test_who_was_refused_finds_a_place_kept_and_others_do_not(self, fabric: Fabric) -> None:
        epoch = await lead(fabric)
        await fabric.publish_load(epoch, 1, 1, 0.001, 100000.0, 1000.0)
        await accept(fabric, R1)
        refused = await fabric.submit(submission(R2), retry_key="mine")
        assert (refused.status, refused.bound, refused.retry_after_s) == (SubmitStatus.BUSY, Bound.WAITING, 1.0)
        await fabric.place(epoch, W1, assign(epoch))
        assert (await fabric.submit(submission(R3), retry_key="other")).status is SubmitStatus.ACCEPTED, "an empty line is for anybody"
        await fabric.publish_load(epoch, 1, 2, 0.001, 100000.0, 1000.0)
        refused_ms = SystemClock().wall_ms()
        eventually_now(lambda: SystemClock().wall_ms() > refused_ms + 1)
        stranger = await fabric.submit(submission(RequestId("r4")), retry_key="stranger")
        assert stranger.status is SubmitStatus.BUSY, "the place is due to another"
        assert (await fabric.submit(submission(R2), retry_key="mine")).status is SubmitStatus.ACCEPTED

    async def test_a_place_is_kept_shortly_before_it_is_due(self, fabric: Fabric) -> None:
        """Due in 4.4 s: within four takes of two seconds each, not within four of a hundredth."""
        epoch = await lead(fabric)
        await fabric.publish_load(epoch, 1, 1, 0.5, 0.5, 1000.0)
        await accept(fabric, R1)
        refused = await fabric.submit(submission(R2), retry_key="mine")
        assert refused.retry_after_s == pytest.approx(4.4, abs=0.1)
        await fabric.publish_load(epoch, 1, 2, 0.5, 0.5, 1000.0)
        stranger = await fabric.submit(submission(R3), retry_key="stranger")
        assert (stranger.status, stranger.bound) == (SubmitStatus.BUSY, Bound.WAITING)
        await fabric.publish_load(epoch, 1, 2, 0.01, 100.0, 1000.0)
        assert (await fabric.submit(submission(R3), retry_key="stranger")).status is SubmitStatus.ACCEPTED, (
            "till then others will have left"
        )

    async def test_who_comes_too_early_is_told_how_long_still(self, fabric: Fabric) -> None:
        await fabric.publish_load(await lead(fabric), 1, 1, 20.0, 0.05, 1.0)
        await accept(fabric, R1)
        first = await fabric.submit(submission(R2), retry_key="mine")
        behind = await fabric.submit(submission(R3), retry_key="another")
        again = await fabric.submit(submission(R2), retry_key="mine")
        assert first.retry_after_s == pytest.approx(44.0, abs=0.1)
        assert behind.retry_after_s == pytest.approx(66.0, abs=2.0)
        assert again.retry_after_s == pytest.approx(44.0, abs=2.0)


class TestMemory:
    @pytest.fixture
    def settings(self) -> FabricSettings:
        return FabricSettings(max_reserved_bytes=6000)

    async def test_a_request_whose_bytes_cannot_be_reserved_is_refused(self, fabric: Fabric) -> None:
        await accept(fabric, R1)
        refused = await fabric.submit(submission(R2))
        assert (refused.status, refused.request_id) == (SubmitStatus.NO_MEMORY, R2)
        assert 1.0 <= refused.retry_after_s <= 120.0
        assert await fabric.record(R2) is None

    async def test_an_end_gives_its_bytes_back_once(self, fabric: Fabric) -> None:
        for number in range(3):
            request_id = RequestId(f"n{number}")
            await accept(fabric, request_id)
            await fabric.close(request_id, 1, Phase.CANCELLED)
            await fabric.close(request_id, 1, Phase.CANCELLED)
        await accept(fabric, R1)
        assert (await fabric.submit(submission(R2))).status is SubmitStatus.NO_MEMORY


# --- cancel, listeners ------------------------------------------------------------------------------------------------


async def test_cancelling_a_waiting_request_tells_the_scheduler(fabric: Fabric) -> None:
    await accept(fabric)
    assert await fabric.cancel(R1) is Phase.QUEUED
    record = await fabric.record(R1)
    assert record is not None
    assert record.cancel_asked
    assert [event for _, event in await fabric.read_events("0-0")] == [CancelAsked(R1)]


async def test_cancelling_a_running_request_tells_its_owner_too(fabric: Fabric) -> None:
    await run(fabric)
    assert await fabric.cancel(R1) is Phase.RUNNING
    assert [message for _, message in await fabric.read_control(W1, "0-0")] == [Cancel(R1)]


async def test_cancelling_what_is_not_there_or_over_tells_nobody(fabric: Fabric) -> None:
    assert await fabric.cancel(NOBODY) is None
    await accept(fabric)
    await fabric.close(R1, 1, Phase.CANCELLED)
    assert await fabric.cancel(R1) is Phase.CANCELLED
    assert await fabric.read_events("0-0") == ()


async def test_a_cancelled_request_is_not_placed(fabric: Fabric) -> None:
    await accept(fabric)
    epoch = await lead(fabric)
    await fabric.cancel(R1)
    assert await fabric.place(epoch, W1, assign(epoch)) is WriteStatus.CANCELLED
    assert await phase_of(fabric) is Phase.QUEUED
    assert await fabric.read_jobs(W1, "0-0") == ()


async def test_a_placement_that_was_before_the_cancellation_stays_done(fabric: Fabric) -> None:
    epoch = await run(fabric)
    await fabric.cancel(R1)
    assert await fabric.place(epoch, W1, assign(epoch)) is WriteStatus.DONE
    assert len(await fabric.read_jobs(W1, "0-0")) == 1


async def test_the_listener_is_the_last_gateway_that_came(fabric: Fabric) -> None:
    await accept(fabric)
    for gateway, listening, listener in [(G2, True, G2), (G1, False, G2), (G2, False, NO_GATEWAY)]:
        await fabric.set_listener(R1, gateway, listening)
        record = await fabric.record(R1)
        assert record is not None
        assert record.listener == listener
    told = [event for _, event in await fabric.read_events("0-0")]
    assert told == [ListenerChange(R1, G2, True), ListenerChange(R1, G1, False), ListenerChange(R1, G2, False)]


async def test_nobody_listens_to_what_is_not_there_or_over(fabric: Fabric) -> None:
    await fabric.set_listener(NOBODY, G1, True)
    await accept(fabric)
    await fabric.close(R1, 1, Phase.FAILED)
    await fabric.set_listener(R1, G2, True)
    assert await fabric.read_events("0-0") == ()


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_closed_request_leaves_the_stream_of_the_living(fabric: Fabric) -> None:
    for request_id in (R1, R2, R3):
        await accept(fabric, request_id)
    assert await fabric.close(R2, 1, Phase.CANCELLED) is WriteStatus.DONE
    assert [found.request_id for _, found in await fabric.read_submissions("0-0")] == [R1, R3]
    assert await phase_of(fabric, R2) is Phase.CANCELLED


async def test_a_close_can_be_repeated_and_the_first_wins(fabric: Fabric) -> None:
    await run(fabric)
    assert await fabric.close(R1, 1, Phase.FINISHED) is WriteStatus.DONE
    assert await fabric.close(R1, 1, Phase.FINISHED) is WriteStatus.DONE
    assert await fabric.close(R1, 1, Phase.CANCELLED) is WriteStatus.ENDED
    assert await phase_of(fabric) is Phase.FINISHED


async def test_an_older_attempt_does_not_close(fabric: Fabric) -> None:
    epoch = await run(fabric)
    await fabric.begin_move(epoch, R1, 1)
    await fabric.requeue(epoch, R1, 2, 3, crashed=True)
    assert await fabric.close(R1, 1, Phase.FINISHED) is WriteStatus.SUPERSEDED
    assert await phase_of(fabric) is Phase.QUEUED


async def test_the_scheduler_closes_under_the_attempt_it_fenced_with(fabric: Fabric) -> None:
    epoch = await run(fabric)
    await fabric.begin_move(epoch, R1, 1)
    assert await fabric.close(R1, 2, Phase.FAILED) is WriteStatus.DONE
    record = await fabric.record(R1)
    assert record is not None
    assert (record.phase, record.attempt, record.owner) == (Phase.FAILED, 2, None)


async def test_nothing_to_close(fabric: Fabric) -> None:
    assert await fabric.close(NOBODY, 1, Phase.FINISHED) is WriteStatus.MISSING
    assert await fabric.record(NOBODY) is None


# --- streams and members ----------------------------------------------------------------------------------------------


async def test_streams_are_read_on_from_where_one_was(fabric: Fabric) -> None:
    for counter in range(5):
        await fabric.tell_scheduler(GatewayBeat(G1, counter))
    first = await fabric.read_events("0-0", count=2)
    rest = await fabric.read_events(first[-1][0], count=10)
    assert [event for _, event in (*first, *rest)] == [GatewayBeat(G1, counter) for counter in range(5)]


async def test_the_newest_event_has_the_id_that_is_read(fabric: Fabric) -> None:
    assert await fabric.newest_event() == "0-0"
    for counter in range(2):
        await fabric.tell_scheduler(GatewayBeat(G1, counter))
    assert await fabric.newest_event() == (await fabric.read_events("0-0"))[-1][0]


async def test_workers_tell_each_other(fabric: Fabric) -> None:
    await fabric.tell_worker(W2, ReleaseAssist(AssistId("x")))
    assert [message for _, message in await fabric.read_control(W2, "0-0", block_ms=50)] == [ReleaseAssist(AssistId("x"))]


async def test_a_report_is_an_event(fabric: Fabric) -> None:
    await fabric.tell_scheduler(report())
    assert [event for _, event in await fabric.read_events("0-0")] == [report()]


async def test_members_come_and_go(fabric: Fabric) -> None:
    await fabric.join(info(W1), 60.0)
    await fabric.join(info(W1), 60.0)
    await fabric.join(info(W2), 60.0)
    assert sorted(await fabric.members(), key=lambda member: member.ref) == [info(W1), info(W2)]
    await fabric.leave(W1)
    await fabric.leave(W1)
    assert await fabric.members() == (info(W2),)


async def test_a_silent_member_is_none(fabric: Fabric) -> None:
    await fabric.join(info(W1), 0.02)
    await fabric.join(info(W2), 60.0)

    async def alone() -> bool:
        return await fabric.members() == (info(W2),)

    assert await eventually(alone)


async def test_a_story_is_told_in_order(fabric: Fabric) -> None:
    lines = tuple(StoryLine(at, "w1", "chunk", {"tokens": 64, "from": (0, 1), "why": None, "ok": True}) for at in range(3))
    await fabric.tell_story(R1, lines[:1])
    await fabric.tell_story(R1, lines[1:])
    assert await fabric.story(R1) == lines
    assert await fabric.story(NOBODY) == ()
