"""The life of a transfer: every pair of states, and what giving up does not end."""

from __future__ import annotations

from itertools import product

import pytest

from shared.errors import InvalidTransition
from shared.messages import Source
from shared.types import AssistId, RequestId, TokenSpan, TransferId, WorkerId, WorkerRef
from workers.kv_transfer import TRANSITIONS, Intake, Life, Offer, TransferState

OWNER = WorkerRef(WorkerId("owner"), "1")
KEY = (OWNER, TransferId(1))


@pytest.mark.parametrize(("state", "wanted"), list(product(TransferState, TransferState)))
def test_only_the_tables_steps_are_taken(state: TransferState, wanted: TransferState) -> None:
    life = Life(state=state)
    if wanted in TRANSITIONS[state]:
        life._move(wanted, "test")
        assert life.state is wanted
    else:
        with pytest.raises(InvalidTransition, match="not a step"):
            life._move(wanted, "test")


def offer() -> Offer:
    return Offer(AssistId("a"), RequestId("r"), tokens=128)


def test_an_offer_only_grows() -> None:
    given = offer()
    assert (given.grow(192), given.grow(64), given.tokens) == (True, False, 192)


def test_a_sent_offer_waits_for_its_release() -> None:
    given = offer()
    given.begin_send(KEY)
    given.end_send(KEY, "")
    given.release()
    assert [line.split(":")[0] for line in given.story] == ["in_flight", "verified", "released"]


def test_an_offer_that_is_released_while_it_is_sent_ends_after_its_last_send() -> None:
    given, second = offer(), (OWNER, TransferId(2))
    given.begin_send(KEY)
    given.begin_send(second)
    given.release()
    given.end_send(KEY, "")
    assert len(given.story) == 1
    given.end_send(second, "cut")
    assert given.state is TransferState.RELEASED


def test_an_offer_that_is_being_pulled_may_expire_only_later() -> None:
    given = offer()
    given.begin_send(KEY)
    given.end_send(KEY, "cut")
    assert given.state is TransferState.OFFERED
    given.expire("nobody came")
    with pytest.raises(InvalidTransition):
        given.begin_send(KEY)


@pytest.mark.parametrize(("good", "state"), [(128, TransferState.RELEASED), (64, TransferState.RELEASED), (0, TransferState.EXPIRED)])
def test_an_intake_ends_when_its_operation_has(good: int, state: TransferState) -> None:
    source = Source(AssistId("a"), WorkerRef(WorkerId("giver"), "1"), 128)
    intake = Intake(TransferId(1), RequestId("r"), 1, source, TokenSpan(0, 128), (), deadline=2.0)
    intake.start()
    assert intake.state is TransferState.IN_FLIGHT
    intake.end(good, "")
    assert intake.state is state
