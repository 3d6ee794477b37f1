"""What the next owner reads: each choice's tokens so far, and which of them have ended."""

from __future__ import annotations

from shared.fabric import LogHead
from shared.messages import Assign, AssistOrder, LogEnd, LogTokens
from shared.types import AssistId, FinishReason, JobSeq, Phase, RequestId, RequestSpec, SamplingParams
from workers.events import Assigned, Delivered, Ordered, Unloadable
from workers.loading import delivered_of, job_event

R1 = RequestId("r1")
HEAD = LogHead(RequestSpec(R1, "m", (1, 2), SamplingParams(9, n=3), 0), "", "")
JOB, ORDER = Assign(JobSeq(1, 1), R1, 2, 2), AssistOrder(JobSeq(1, 2), AssistId("a"), R1, 64)


def test_tokens_are_put_together_by_choice() -> None:
    entries = (LogTokens(0, 0, (5,), ""), LogTokens(2, 0, (6,), ""), LogTokens(0, 1, (7, 8), "", finish=FinishReason.STOP))
    known = (Delivered((5, 7, 8), FinishReason.STOP), Delivered(), Delivered((6,)))
    assert delivered_of(entries) == known
    assert job_event(JOB, HEAD, entries) == Assigned(JOB, HEAD.spec, known)


def test_an_empty_log_has_delivered_nothing() -> None:
    assert job_event(JOB, HEAD, ()) == Assigned(JOB, HEAD.spec, ())
    assert job_event(ORDER, HEAD, ()) == Ordered(ORDER, HEAD.spec)


def test_there_is_nothing_to_do_for_a_log_that_has_ended_or_is_gone() -> None:
    assert job_event(JOB, HEAD, (LogEnd(Phase.CANCELLED),)) == Unloadable(JOB, Phase.CANCELLED)
    assert job_event(ORDER, None, ()) == Unloadable(ORDER, None)
