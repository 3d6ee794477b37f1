"""The fabric's promises about logs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.fabric import Fabric, FenceAnswer, WriteStatus
from shared.messages import LogEnd
from shared.types import FinishReason, Phase, RequestId
from tests.contract.words import (
    END,
    R1,
    head,
    tokens,
)

NOBODY = RequestId("nobody")


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


async def test_an_end_that_counts_tokens_the_log_does_not_have_is_none(fabric: Fabric) -> None:
    """One of several choices lacks what a server lost; the others went on, and each of their indexes was the next."""
    await fabric.create_log(head())
    assert await fabric.append(R1, 1, (tokens(0, 10),)) is WriteStatus.DONE
    last = tokens(0, 5, 6, choice=1, finish=FinishReason.LENGTH)
    assert await fabric.append(R1, 1, (last,), replace(END, counts=(2, 2))) is WriteStatus.GAP
    assert await fabric.append(R1, 1, (last,), replace(END, counts=(1, 2, 1))) is WriteStatus.GAP
    assert await fabric.append(R1, 1, (last,), replace(END, counts=(1, 2))) is WriteStatus.DONE
    assert [entry.entry for entry in await fabric.read_log(R1)] == [tokens(0, 10), last, replace(END, counts=(1, 2))]


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


async def test_a_fence_tells_why_a_request_failed(fabric: Fabric) -> None:
    await fabric.create_log(head())
    await fabric.append(R1, 1, (), LogEnd(Phase.FAILED, "3 workers crashed", "too_many_crashes"))
    for attempt in (1, 2):
        assert await fabric.raise_fence(R1, attempt) == FenceAnswer(WriteStatus.DONE, 0, Phase.FAILED, "too_many_crashes")


async def test_choices_have_indexes_of_their_own_and_a_fence_tells_the_furthest(fabric: Fabric) -> None:
    await fabric.create_log(head())
    entries = (tokens(0, 1), tokens(0, 5, 6, choice=2), tokens(1, 2), tokens(2, 7, choice=2))
    assert await fabric.append(R1, 1, entries) is WriteStatus.DONE
    assert await fabric.append(R1, 1, (tokens(2, 9, choice=1),)) is WriteStatus.GAP
    assert await fabric.raise_fence(R1, 2) == FenceAnswer(WriteStatus.DONE, next_index=3)
