"""A worker core on a bench: feed it events by hand, and look at the very commands that come out."""

from __future__ import annotations

from typing import Any, TypeVar

from shared.messages import Assign, AssistOrder, Report, Source
from shared.types import AssistId, JobSeq, RequestSpec, WorkerId, WorkerRef
from tests.support.core_harness import make_spec
from workers.core import WorkerCore, WorkerSettings
from workers.events import Assigned, Delivered, Launch, Ordered, SendReport, StepDone, TellStory, WorkerCommand, WorkerEvent

ME, PEER = WorkerRef(WorkerId("me"), "1"), WorkerRef(WorkerId("peer"), "1")
Command = TypeVar("Command")


class Bench:
    """A core on a bench: `do` gives the commands without stories and reports, which are kept apart."""

    def __init__(self, **changes: Any) -> None:
        figures: dict[str, Any] = {"block_tokens": 16, "total_blocks": 40, "token_budget": 128, "max_sequences": 4, **changes}
        self.core = WorkerCore(
            WorkerSettings(ref=ME, fingerprint=b"layout", max_model_tokens=1000, eos_token_ids=frozenset({0}), **figures)
        )
        self.now = 0.0
        self.jobs = 0
        self.launched: list[Launch] = []
        self.reports: list[Report] = []

    def do(self, event: WorkerEvent, now: float | None = None) -> list[WorkerCommand]:
        self.now = self.now if now is None else now
        commands = self.core.handle(event, self.now)
        self.core.check()
        self.launched += of(Launch, commands)
        self.reports += [command.report for command in of(SendReport, commands)]
        return [command for command in commands if not isinstance(command, TellStory | SendReport)]

    def assign(self, spec: RequestSpec, attempt: int = 1, generated: tuple[int, ...] = (), source: Source | None = None) -> list[Any]:
        self.jobs += 1
        job = Assign(JobSeq(1, self.jobs), spec.request_id, attempt, len(spec.prompt) + len(generated), source)
        return self.do(Assigned(job, spec, (Delivered(generated),) if generated else ()))

    def order(self, spec: RequestSpec, limit: int = 1000) -> list[Any]:
        return self.order_as("a", spec, limit)

    def order_as(self, assist: str, spec: RequestSpec, limit: int = 1000) -> list[Any]:
        self.jobs += 1
        return self.do(Ordered(AssistOrder(JobSeq(1, self.jobs), AssistId(assist), spec.request_id, limit), spec))

    def step(self, *tokens: int) -> list[WorkerCommand]:
        """The oldest launched step ends and samples these."""
        plan = self.launched.pop(0).plan
        assert len(tokens) == len(plan.samples)
        return self.do(StepDone(plan.step, tokens, (-1.0,) * len(tokens), 0.01))


def of(kind: type[Command], commands: list[Any]) -> list[Command]:
    return [command for command in commands if isinstance(command, kind)]


def chunks(launch: Launch) -> list[tuple[int, int]]:
    """(first position, tokens) of each sequence in the plan."""
    plan = launch.plan
    return [(int(plan.positions[start]), int(stop - start)) for start, stop in zip(plan.starts[:-1], plan.starts[1:], strict=True)]


SPEC = make_spec("r", 100, max_tokens=3, ignore_eos=False)
R = SPEC.request_id
ASSISTED = make_spec("assisted", 300)
