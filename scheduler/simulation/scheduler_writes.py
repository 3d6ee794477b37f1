"""A scheduler's command as the write it is: which step, what it does on the server, and the event that its answer becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scheduler.events import (
    BeginMove,
    Close,
    Command,
    EndWritten,
    FenceRaised,
    Forget,
    MoveBegun,
    Place,
    Placed,
    PublishLoad,
    RaiseFence,
    RecordClosed,
    Requeue,
    Requeued,
    Reread,
    SchedulerCommand,
    SchedulerEvent,
    TellStory,
    WriteEnd,
)
from scheduler.moves import TOO_MANY_CRASHES
from scheduler.simulation.steps import Step
from shared.fabric import FenceAnswer
from shared.messages import AssistOrder, LogEnd
from shared.types import MoveCause, RequestId

if TYPE_CHECKING:
    from scheduler.simulation.world import World

MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Write:
    step: Step
    effect: Callable[[], Any]
    event: Callable[[Any], SchedulerEvent] | None = None
    """None: nothing waits for the answer."""
    moment: Step | None = None
    """A moment of the process between the answer and the event."""


def write_of(command: SchedulerCommand, world: World, epoch: int) -> Write:
    fabric = world.fabric
    match command:
        case Place(worker, job):
            step = Step.WRITE_PLACE_ASSIST if isinstance(job, AssistOrder) else Step.WRITE_PLACE_ASSIGN
            return Write(step, partial(fabric.place, epoch, worker, job), partial(Placed, worker, job), Step.SCHEDULER_PLACED)
        case Command(worker, message):
            return Write(Step.WRITE_COMMAND, partial(fabric.command, epoch, worker, message))
        case BeginMove(request, attempt):
            effect = partial(fabric.begin_move, epoch, request, attempt)
            return Write(Step.WRITE_BEGIN_MOVE, effect, partial(MoveBegun, request, attempt), Step.SCHEDULER_MOVE_BEGUN)
        case RaiseFence(request, attempt):
            raised = partial(_raise_fence, world, request, attempt)
            return Write(Step.WRITE_RAISE_FENCE, raised, partial(FenceRaised, request, attempt), Step.SCHEDULER_FENCE_RAISED)
        case Requeue(request, attempt, num_tokens, cause):
            effect = partial(fabric.requeue, epoch, request, attempt, num_tokens, crashed=cause is MoveCause.CRASH)
            return Write(Step.WRITE_REQUEUE, effect, partial(Requeued, request, attempt, num_tokens), Step.SCHEDULER_REQUEUED)
        case WriteEnd(request, attempt, phase, error, code):
            effect = partial(fabric.append, request, attempt, (), LogEnd(phase, error, code, int(1000 * world.now)))
            moment = Step.SCHEDULER_DEAD_WRITTEN if code == TOO_MANY_CRASHES else Step.SCHEDULER_END_WRITTEN
            return Write(Step.WRITE_END, effect, partial(EndWritten, request, attempt), moment)
        case Close(request, attempt, phase, dead_letter):
            step = Step.WRITE_CLOSE_DEAD if dead_letter else Step.WRITE_CLOSE
            return Write(step, partial(fabric.close, request, attempt, phase, dead_letter=dead_letter), partial(RecordClosed, request))
        case PublishLoad(waiting, wait_s, takes, kv_takes):
            return Write(Step.WRITE_PUBLISH_LOAD, partial(fabric.publish_load, epoch, waiting, MAX_WAITING, wait_s, takes, kv_takes))
        case Forget(ref):
            return Write(Step.WRITE_LEAVE, partial(fabric.leave, ref))
        case Reread() | TellStory():
            raise ValueError(f"{command} is no write")


def _raise_fence(world: World, request_id: RequestId, attempt: int) -> FenceAnswer:
    answer = world.fabric.raise_fence(request_id, attempt)
    world.oracle.fence_raised(request_id, answer, attempt)
    return answer
