"""What `shared.fabric.Fabric` promises, of every fabric: three kinds of server, and the simulator's model."""

from __future__ import annotations

import pytest

from shared.fabric import Fabric, FenceAnswer, SubmitStatus, WriteStatus
from shared.fabric_settings import FabricSettings
from shared.messages import Cancel, CancelAsked, Drain, GatewayBeat, ListenerChange, LogEnd, ReleaseAssist, StoryLine
from shared.types import NO_GATEWAY, AssistId, FinishReason, Phase, RequestId, WorkerId, WorkerRef
from tests.contract.words import (
    END,
    G1,
    G2,
    R1,
    R2,
    R3,
    W1,
    W2,
    accept,
    assign,
    assist,
    head,
    info,
    lead,
    phase_of,
    report,
    run,
    submission,
    tokens,
)
from tests.support.waiting import eventually

NOBODY = RequestId("nobody")

# --- submission --------------------------------------------------------------------------------------------------


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


# --- cancel, listeners -------------------------------------------------------------------------------------------


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


# --- the log -----------------------------------------------------------------------------------------------------


async def test_a_head_is_written_once(fabric: Fabric) -> None:
    assert await fabric.head(R1) is None
    await fabric.create_log(head())
    await fabric.raise_fence(R1, 4)
    await fabric.create_log(head())
    found = await fabric.head(R1)
    assert found is not None
    assert (found.spec, found.api, found.owner_key, found.fence) == (head().spec, '{"stream": true}', "key-digest", 4)


async def test_tokens_are_read_back_in_order(fabric: Fabric) -> None:
    await fabric.create_log(head())
    last = tokens(2, 30, finish=FinishReason.STOP)
    assert await fabric.append(R1, 1, (tokens(0, 10, 20),)) is WriteStatus.DONE
    assert await fabric.append(R1, 1, (last,), END) is WriteStatus.DONE
    logged = await fabric.read_log(R1)
    assert [entry.entry for entry in logged] == [tokens(0, 10, 20), last, END]
    assert [entry.entry for entry in await fabric.read_log(R1, logged[0].entry_id)] == [last, END]
    assert await fabric.read_log(R1, logged[-1].entry_id) == ()


async def test_a_log_that_is_not_there(fabric: Fabric) -> None:
    assert await fabric.append(NOBODY, 1, (tokens(0, 1),)) is WriteStatus.MISSING
    assert await fabric.read_log(NOBODY) == ()
    assert (await fabric.raise_fence(NOBODY, 2)).status is WriteStatus.MISSING


async def test_a_repeat_of_the_last_append_is_done_once_whenever_it_was_said(fabric: Fabric) -> None:
    await fabric.create_log(head())
    await fabric.append(R1, 1, (tokens(0, 1),))
    for at_ms in (0, 1, 2):
        assert await fabric.append(R1, 1, (tokens(1, 2, at_ms=at_ms),)) is WriteStatus.DONE
    assert [entry.entry for entry in await fabric.read_log(R1)] == [tokens(0, 1), tokens(1, 2)]


@pytest.mark.parametrize(
    "entry", [tokens(0, 1), tokens(1, 9), tokens(3, 4), tokens(1, 4, choice=1)], ids=["older", "other", "gap", "choice"]
)
async def test_what_is_not_next_is_a_gap(fabric: Fabric, entry: object) -> None:
    await fabric.create_log(head())
    await fabric.append(R1, 1, (tokens(0, 1),))
    await fabric.append(R1, 1, (tokens(1, 2),))
    assert await fabric.append(R1, 1, (entry,)) is WriteStatus.GAP  # type: ignore[arg-type]
    assert len(await fabric.read_log(R1)) == 2


async def test_an_append_is_all_or_nothing(fabric: Fabric) -> None:
    await fabric.create_log(head())
    assert await fabric.append(R1, 1, (tokens(0, 1), tokens(2, 3)), END) is WriteStatus.GAP
    assert await fabric.read_log(R1) == ()
    assert await fabric.append(R1, 1, (tokens(0, 1), tokens(1, 2, 3), tokens(0, 4, choice=1), tokens(3, 5))) is WriteStatus.DONE
    assert await fabric.append(R1, 1, (tokens(1, 6, choice=1), tokens(4, 7))) is WriteStatus.DONE


async def test_the_first_end_wins(fabric: Fabric) -> None:
    await fabric.create_log(head())
    assert await fabric.append(R1, 1, (tokens(0, 1),), END) is WriteStatus.DONE
    assert await fabric.append(R1, 1, (), LogEnd(Phase.CANCELLED)) is WriteStatus.ENDED
    assert await fabric.append(R1, 1, (tokens(1, 2),)) is WriteStatus.ENDED
    assert await fabric.append(R1, 1, (tokens(0, 1),), LogEnd(Phase.FINISHED, at_ms=9)) is WriteStatus.DONE
    assert [entry.entry for entry in await fabric.read_log(R1)] == [tokens(0, 1), END]


async def test_a_fence_keeps_older_attempts_out(fabric: Fabric) -> None:
    await fabric.create_log(head())
    await fabric.append(R1, 1, (tokens(0, 1, 2),))
    for _ in range(2):
        assert await fabric.raise_fence(R1, 2) == FenceAnswer(WriteStatus.DONE, next_index=2)
    assert await fabric.append(R1, 1, (tokens(0, 1, 2),)) is WriteStatus.SUPERSEDED
    assert await fabric.append(R1, 1, (tokens(2, 3),)) is WriteStatus.SUPERSEDED
    assert (await fabric.raise_fence(R1, 1)).status is WriteStatus.SUPERSEDED
    assert await fabric.append(R1, 2, (tokens(2, 9),)) is WriteStatus.DONE


async def test_an_attempt_above_the_fence_does_not_write_either(fabric: Fabric) -> None:
    await fabric.create_log(head())
    assert await fabric.append(R1, 2, (tokens(0, 1),)) is WriteStatus.SUPERSEDED


async def test_a_fence_tells_of_an_end(fabric: Fabric) -> None:
    await fabric.create_log(head())
    await fabric.append(R1, 1, (tokens(0, 1),), END)
    assert await fabric.raise_fence(R1, 2) == FenceAnswer(WriteStatus.DONE, 1, Phase.FINISHED)


# --- the lease ---------------------------------------------------------------------------------------------------


async def test_one_leads_and_keeps_its_epoch(fabric: Fabric) -> None:
    epoch = await fabric.lead("a", 60.0)
    assert epoch > 0
    assert await fabric.lead("b", 60.0) == 0
    assert await fabric.lead("a", 60.0) == epoch


async def test_the_next_leader_has_a_higher_epoch(fabric: Fabric) -> None:
    epoch = await fabric.lead("a", 60.0)
    await fabric.resign("b")
    assert await fabric.lead("b", 60.0) == 0
    await fabric.resign("a")
    second = await fabric.lead("b", 60.0)
    assert second > epoch
    await fabric.resign("b")
    assert await fabric.lead("b", 60.0) > second


async def test_a_lease_ends_by_itself(fabric: Fabric) -> None:
    epoch = await fabric.lead("a", 0.02)
    assert await eventually(lambda: fabric.lead("b", 60.0)) > epoch


# --- placement ---------------------------------------------------------------------------------------------------


async def test_a_placement_is_record_and_job_at_once(fabric: Fabric) -> None:
    epoch = await run(fabric)
    record = await fabric.record(R1)
    assert record is not None
    assert (record.phase, record.owner, record.attempt) == (Phase.RUNNING, W1, 1)
    ((entry_id, job),) = await fabric.read_jobs(W1, "0-0")
    assert job == assign(epoch)
    assert await fabric.read_jobs(W1, entry_id) == ()
    assert await fabric.read_jobs(W2, "0-0") == ()


async def test_a_repeated_placement_is_one_job(fabric: Fabric) -> None:
    epoch = await run(fabric)
    assert await fabric.place(epoch, W1, assign(epoch)) is WriteStatus.DONE
    assert len(await fabric.read_jobs(W1, "0-0")) == 1


async def test_a_running_request_is_not_placed_twice(fabric: Fabric) -> None:
    epoch = await run(fabric)
    assert await fabric.place(epoch, W2, assign(epoch, number=2)) is WriteStatus.SUPERSEDED
    assert await fabric.read_jobs(W2, "0-0") == ()


@pytest.mark.parametrize("attempt", [0, 2])
async def test_a_placement_names_the_records_attempt(fabric: Fabric, attempt: int) -> None:
    await accept(fabric)
    epoch = await lead(fabric)
    assert await fabric.place(epoch, W1, assign(epoch, attempt=attempt)) is WriteStatus.SUPERSEDED


async def test_what_is_not_there_or_over_is_not_placed(fabric: Fabric) -> None:
    epoch = await lead(fabric)
    assert await fabric.place(epoch, W1, assign(epoch)) is WriteStatus.MISSING
    await accept(fabric)
    await fabric.close(R1, 1, Phase.CANCELLED)
    assert await fabric.place(epoch, W1, assign(epoch)) is WriteStatus.ENDED
    assert await fabric.read_jobs(W1, "0-0") == ()


async def test_an_assist_order_is_one_job_and_touches_no_record(fabric: Fabric) -> None:
    await accept(fabric)
    epoch = await lead(fabric)
    for number in (1, 1, 2, 2):
        assert await fabric.place(epoch, W1, assist(epoch, number)) is WriteStatus.DONE
    assert [job for _, job in await fabric.read_jobs(W1, "0-0")] == [assist(epoch, 1), assist(epoch, 2)]
    assert await phase_of(fabric) is Phase.QUEUED


async def test_a_deposed_leader_changes_nothing(fabric: Fabric) -> None:
    epoch = await run(fabric)
    await accept(fabric, R2)
    await fabric.resign("leader")
    assert await fabric.lead("other", 60.0) > epoch
    assert await fabric.place(epoch, W1, assign(epoch, 2, R2)) is WriteStatus.SUPERSEDED
    assert await fabric.place(epoch, W1, assist(epoch, 3, R2)) is WriteStatus.SUPERSEDED
    assert await fabric.command(epoch, W1, Drain(1.0)) is WriteStatus.SUPERSEDED
    assert await fabric.begin_move(epoch, R1, 1) is WriteStatus.SUPERSEDED
    assert await fabric.requeue(epoch, R1, 2, 3, crashed=True) is WriteStatus.SUPERSEDED
    assert await fabric.publish_load(epoch, 0, 0, 0.0) is WriteStatus.SUPERSEDED
    assert (await phase_of(fabric, R1), await phase_of(fabric, R2)) == (Phase.RUNNING, Phase.QUEUED)
    assert await fabric.read_control(W1, "0-0") == ()
    assert len(await fabric.read_jobs(W1, "0-0")) == 1


async def test_a_command_reaches_one_incarnation(fabric: Fabric) -> None:
    epoch = await lead(fabric)
    assert await fabric.command(epoch, W1, Drain(1.5)) is WriteStatus.DONE
    assert [message for _, message in await fabric.read_control(W1, "0-0")] == [Drain(1.5)]
    assert await fabric.read_control(WorkerRef(WorkerId("w1"), "z"), "0-0") == ()


# --- moving ------------------------------------------------------------------------------------------------------


async def test_a_move_makes_the_next_attempt(fabric: Fabric) -> None:
    epoch = await run(fabric)
    assert await fabric.begin_move(epoch, R1, 1) is WriteStatus.DONE
    assert await phase_of(fabric) is Phase.MOVING
    assert await fabric.requeue(epoch, R1, 2, 5, crashed=True) is WriteStatus.DONE
    record = await fabric.record(R1)
    assert record is not None
    assert (record.phase, record.attempt, record.owner, record.crashes, record.num_tokens) == (Phase.QUEUED, 2, None, 1, 5)
    assert await fabric.place(epoch, W2, assign(epoch, 2, attempt=2, num_tokens=5)) is WriteStatus.DONE
    assert await fabric.place(epoch, W1, assign(epoch, 1)) is WriteStatus.SUPERSEDED


async def test_each_step_of_a_move_can_be_repeated(fabric: Fabric) -> None:
    epoch = await run(fabric)
    for _ in range(2):
        assert await fabric.begin_move(epoch, R1, 1) is WriteStatus.DONE
    for _ in range(2):
        assert await fabric.requeue(epoch, R1, 2, 3, crashed=True) is WriteStatus.DONE
    await fabric.place(epoch, W2, assign(epoch, 2, attempt=2))
    assert await fabric.requeue(epoch, R1, 2, 3, crashed=True) is WriteStatus.DONE
    record = await fabric.record(R1)
    assert record is not None
    assert (record.crashes, record.phase, record.owner) == (1, Phase.RUNNING, W2)
    assert await fabric.begin_move(epoch, R1, 1) is WriteStatus.SUPERSEDED


async def test_what_was_not_taken_from_its_place_is_not_requeued(fabric: Fabric) -> None:
    epoch = await run(fabric)
    assert await fabric.requeue(epoch, R1, 2, 3, crashed=False) is WriteStatus.SUPERSEDED
    await fabric.begin_move(epoch, R1, 1)
    assert await fabric.requeue(epoch, R1, 3, 3, crashed=False) is WriteStatus.SUPERSEDED
    assert await fabric.begin_move(epoch, R1, 2) is WriteStatus.SUPERSEDED


async def test_a_waiting_request_can_move_too(fabric: Fabric) -> None:
    await accept(fabric)
    epoch = await lead(fabric)
    assert await fabric.begin_move(epoch, R1, 1) is WriteStatus.DONE
    assert await fabric.place(epoch, W1, assign(epoch)) is WriteStatus.SUPERSEDED
    assert await fabric.requeue(epoch, R1, 2, 3, crashed=False) is WriteStatus.DONE
    record = await fabric.record(R1)
    assert record is not None
    assert record.crashes == 0


async def test_what_is_not_there_or_over_does_not_move(fabric: Fabric) -> None:
    epoch = await lead(fabric)
    assert await fabric.begin_move(epoch, NOBODY, 1) is WriteStatus.MISSING
    assert await fabric.requeue(epoch, NOBODY, 2, 3, crashed=False) is WriteStatus.MISSING
    await accept(fabric)
    await fabric.close(R1, 1, Phase.FAILED)
    assert await fabric.begin_move(epoch, R1, 1) is WriteStatus.ENDED
    assert await fabric.requeue(epoch, R1, 2, 3, crashed=False) is WriteStatus.ENDED


async def test_a_cancelled_owner_is_told_no_more_once_it_was_moved_from(fabric: Fabric) -> None:
    epoch = await run(fabric)
    await fabric.begin_move(epoch, R1, 1)
    assert await fabric.cancel(R1) is Phase.MOVING
    assert await fabric.read_control(W1, "0-0") == ()
    await fabric.requeue(epoch, R1, 2, 3, crashed=False)
    assert await fabric.place(epoch, W2, assign(epoch, 2, attempt=2)) is WriteStatus.CANCELLED


# --- the end -----------------------------------------------------------------------------------------------------


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


# --- streams and members -----------------------------------------------------------------------------------------


async def test_streams_are_read_on_from_where_one_was(fabric: Fabric) -> None:
    for counter in range(5):
        await fabric.tell_scheduler(GatewayBeat(G1, counter))
    first = await fabric.read_events("0-0", count=2)
    rest = await fabric.read_events(first[-1][0], count=10)
    assert [event for _, event in (*first, *rest)] == [GatewayBeat(G1, counter) for counter in range(5)]


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
