"""The worker core: one device's head starts and owned requests. Events in, commands out; no I/O, no clock, no chance.

Progress is one number per sequence; a failure is a kind of event; whatever is late is judged by attempt, transfer or step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from shared.messages import AbandonTransfer, Cancel, Drain, Pull, PullRefused, ReleaseAssist, Revoke, StopAssist, WorkerState
from workers.core_steps import CoreSteps
from workers.events import (
    Assigned,
    Closed,
    LinkProbed,
    Ordered,
    PeerLost,
    PullEnded,
    SendEnded,
    StepDone,
    StepFailed,
    StopFound,
    Superseded,
    Tick,
    Unloadable,
    WorkerCommand,
    WorkerEvent,
)
from workers.settings import WorkerSettings

__all__ = ["WorkerCore", "WorkerSettings"]


class WorkerCore(CoreSteps):
    """`handle(event, now)` answers with the commands to carry out, in order; each that starts something comes back as one event.

    Its floors are split by concern (`workers/core_*.py`); every rule is a small method that a simulator may override to plant a bug.
    """

    def handle(self, event: WorkerEvent, now: float) -> list[WorkerCommand]:
        """`now` is monotonic seconds; one that lies in the past counts as the present."""
        return self.handle_all((event,), now)

    def handle_all(self, events: Iterable[WorkerEvent], now: float) -> list[WorkerCommand]:
        """The same of several events that came together: planned and reported once, behind the last."""
        self.now = max(self.now, now)
        for event in events:
            self._dispatch(event)
        self._keep_deadlines()
        self.advance()
        self.report_if_due()
        commands, self._commands = self._commands, []
        return commands

    def _dispatch(self, event: WorkerEvent) -> None:
        match event:
            case StepDone() | StepFailed():
                self.on_step_result(event)
            case Assigned():
                self.on_assigned(event)
            case Ordered():
                self.on_ordered(event)
            case Unloadable():
                self.on_unloadable(event)
            case StopAssist():
                self.on_stop_assist(event)
            case ReleaseAssist():
                self.on_release_assist(event)
            case Pull():
                self.on_pull(event)
            case PullRefused():
                self.on_pull_refused(event)
            case AbandonTransfer():
                self.on_abandon_transfer(event)
            case PullEnded():
                self.on_pull_ended(event)
            case SendEnded():
                self.on_send_ended(event)
            case Cancel():
                self.on_cancel(event)
            case Revoke():
                self.on_revoke(event)
            case StopFound():
                self.on_stop_found(event)
            case Superseded():
                self.on_superseded(event)
            case Closed():
                self.on_closed(event)
            case PeerLost():
                self.on_peer_lost(event.peer)
            case Drain():
                self.on_drain(event)
            case LinkProbed():
                self.note_probe(event)
            case Tick():
                pass
            case _ as never:
                assert_never(never)

    def on_drain(self, event: Drain) -> None:
        """No credit from now on; head starts stop where they are and stay offered; owned requests go on until the deadline."""
        self.hear_scheduler()
        self.state = WorkerState.DRAINING
        self.drain_at = min(self.drain_at, self.now + event.deadline_s)
        for assist in self.assists.values():
            assist.stopped = True
        self.tell_soon()

    def _keep_deadlines(self) -> None:
        self.expire_pulls()
        self.expire_assists()
        if self.now >= self.drain_at:
            self._give_everything_back()

    def _give_everything_back(self) -> None:
        for owned in [owned for owned in self.owned.values() if not owned.ended]:
            self.hand_back(owned, "drained")
        for assist in [assist for assist in self.assists.values() if not assist.offer.sends]:
            self.drop_assist(assist, "drained")

    def __repr__(self) -> str:
        owned = [owned for owned in self.owned.values() if not owned.ended]
        running = sum(1 for each in owned if not each.intake and any(sequence.blocks for sequence in each.choices))
        pulling = sum(1 for each in owned if each.intake)
        return (
            f"<WorkerCore {self.settings.ref} {self.state.value} [running {running} | waiting {len(owned) - running - pulling}"
            f" | pulling {pulling} | assists {len(self.assists)} | sends {len(self.sends)} | steps {len(self.running)}"
            f" | blocks {self.blocks.free_blocks}/{self.settings.total_blocks} | budget {self.settings.token_budget}]>"
        )
