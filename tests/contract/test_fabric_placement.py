"""The fabric's promises to the scheduler: one leads, places, moves."""

from __future__ import annotations

import pytest

from shared.fabric import Fabric, WriteStatus
from shared.messages import Drain
from shared.types import Phase, RequestId, WorkerId, WorkerRef
from tests.contract.words import (
    R1,
    R2,
    W1,
    W2,
    accept,
    assign,
    assist,
    lead,
    phase_of,
    run,
)
from tests.support.waiting import eventually

NOBODY = RequestId("nobody")

# --- the lease --------------------------------------------------------------------------------------------------------


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


# --- placement --------------------------------------------------------------------------------------------------------


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


async def test_the_newest_job_and_command_of_a_worker_have_the_ids_that_are_read(fabric: Fabric) -> None:
    assert await fabric.newest(W1) == ("0-0", "0-0")
    epoch = await run(fabric, R1)
    await fabric.command(epoch, W1, Drain(1.5))
    jobs, control = await fabric.read_jobs(W1, "0-0"), await fabric.read_control(W1, "0-0")
    assert await fabric.newest(W1) == (jobs[-1][0], control[-1][0])


async def test_a_command_reaches_one_incarnation(fabric: Fabric) -> None:
    epoch = await lead(fabric)
    assert await fabric.command(epoch, W1, Drain(1.5)) is WriteStatus.DONE
    assert [message for _, message in await fabric.read_control(W1, "0-0")] == [Drain(1.5)]
    assert await fabric.read_control(WorkerRef(WorkerId("w1"), "z"), "0-0") == ()


# --- moving -----------------------------------------------------------------------------------------------------------


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
