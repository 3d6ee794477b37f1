"""The words of the fabric's tests: short ways to say request, worker, token."""

from __future__ import annotations

from shared.fabric import Fabric, LogHead, SubmitStatus, WriteStatus
from shared.messages import Assign, AssistOrder, Credit, LogEnd, LogTokens, Report, Submission, WorkerInfo, WorkerState
from shared.profile import Profile
from shared.types import (
    AssistId,
    FinishReason,
    GatewayId,
    JobSeq,
    Phase,
    RequestId,
    RequestSpec,
    SamplingParams,
    WorkerId,
    WorkerRef,
)

R1, R2, R3 = RequestId("r1"), RequestId("r2"), RequestId("r3")
W1, W2 = WorkerRef(WorkerId("w1"), "a"), WorkerRef(WorkerId("w2"), "b")
G1, G2 = GatewayId("g1"), GatewayId("g2")
END = LogEnd(Phase.FINISHED)


def head(request_id: RequestId = R1) -> LogHead:
    return LogHead(RequestSpec(request_id, "m", (7, 8, 9), SamplingParams(16, stop=("\n",)), 5), '{"stream": true}', "key-digest")


def submission(request_id: RequestId = R1, gateway: GatewayId = G1) -> Submission:
    return Submission(request_id, num_prompt=3, max_tokens=16, created_ms=5, gateway=gateway)


def tokens(index: int, *ids: int, choice: int = 0, finish: FinishReason | None = None, at_ms: int = 0) -> LogTokens:
    return LogTokens(choice, index, ids, "".join(chr(97 + i % 26) for i in ids), finish=finish, at_ms=at_ms)


def assign(epoch: int, number: int = 1, request_id: RequestId = R1, attempt: int = 1, num_tokens: int = 3) -> Assign:
    return Assign(JobSeq(epoch, number), request_id, attempt, num_tokens)


def assist(epoch: int, number: int = 1, request_id: RequestId = R1) -> AssistOrder:
    return AssistOrder(JobSeq(epoch, number), AssistId(f"a{number}"), request_id, 64)


def info(ref: WorkerRef = W1) -> WorkerInfo:
    return WorkerInfo(ref, "m", b"\x01\xff", "cpu", "h", Profile(0.01, 1e-4, 1e-8, 1e-3, 1e-6, 512), 16, 1000, 8, 256, 4096)


def report(ref: WorkerRef = W1, counter: int = 1) -> Report:
    return Report(ref, counter, WorkerState.READY, JobSeq(0, 0), Credit(64, 10, 4))


async def accept(fabric: Fabric, request_id: RequestId = R1, gateway: GatewayId = G1) -> None:
    """Log and record of a waiting request."""
    await fabric.create_log(head(request_id))
    answer = await fabric.submit(submission(request_id, gateway))
    assert answer.status is SubmitStatus.ACCEPTED


async def lead(fabric: Fabric) -> int:
    epoch = await fabric.lead("leader", 60.0)
    assert epoch > 0
    return epoch


async def run(fabric: Fabric, request_id: RequestId = R1, worker: WorkerRef = W1) -> int:
    """A running request; returns its leader's epoch."""
    await accept(fabric, request_id)
    epoch = await lead(fabric)
    assert await fabric.place(epoch, worker, assign(epoch, request_id=request_id)) is WriteStatus.DONE
    return epoch


async def phase_of(fabric: Fabric, request_id: RequestId = R1) -> Phase | None:
    record = await fabric.record(request_id)
    return record.phase if record else None
