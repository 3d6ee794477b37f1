"""A live request as the leader knows it, and the table of its stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.output_lengths import OutputLengths
from shared.errors import InvalidTransition
from shared.fabric import Record
from shared.messages import Source, Submission
from shared.request import advance
from shared.types import AssistId, JobSeq, MoveCause, Phase, RequestId, WorkerRef, whole_granules


class Stage(StrEnum):
    """What a live request is waiting for. Finer than `Phase`: the record knows nothing of writes under way."""

    __hash__ = str.__hash__  # An enum's own goes by way of Python, and every step looks itself up.

    WAITING = "waiting"
    PLACING = "placing"
    RUNNING = "running"
    MOVING = "moving"
    FENCING = "fencing"
    REQUEUING = "requeuing"
    ENDING = "ending"
    CLOSING = "closing"
    REREADING = "rereading"


STEPS: dict[Stage, frozenset[Stage]] = {
    Stage.WAITING: frozenset({Stage.PLACING, Stage.FENCING}),
    Stage.PLACING: frozenset({Stage.RUNNING, Stage.MOVING, Stage.FENCING, Stage.REREADING}),
    Stage.RUNNING: frozenset({Stage.MOVING}),
    Stage.MOVING: frozenset({Stage.FENCING, Stage.REREADING}),
    Stage.FENCING: frozenset({Stage.REQUEUING, Stage.ENDING, Stage.CLOSING, Stage.REREADING}),
    Stage.REQUEUING: frozenset({Stage.WAITING, Stage.ENDING, Stage.REREADING}),
    Stage.ENDING: frozenset({Stage.CLOSING, Stage.FENCING, Stage.REREADING}),
    Stage.CLOSING: frozenset({Stage.REREADING}),
    Stage.REREADING: frozenset({Stage.WAITING, Stage.RUNNING, Stage.FENCING}),
}
"""From any stage a request may also leave for good: its record is closed, or gone."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the scheduler wants a request to end. The log decides: an end that is already there wins."""

    phase: Phase
    error: str = ""
    code: str = ""


CANCELLED = Ending(Phase.CANCELLED)


class Story(list[tuple[str, int]]):
    """The last stages and their attempts, put into words for errors alone."""

    LENGTH = 8

    def tell(self, what: str, attempt: int) -> None:
        self.append((what, attempt))
        del self[: -self.LENGTH]

    def __str__(self) -> str:
        return " ".join(f"{what}/{attempt}" for what, attempt in self)


@dataclass(slots=True, eq=False)
class HeadStart:
    """An assist: what a low-end was asked to compute, and how far it has come."""

    assist: AssistId
    request_id: RequestId
    worker: WorkerRef
    limit: int
    seq: JobSeq | None
    """None: found in a report, an earlier leader ordered it."""
    ordered_at: float
    offered: int = 0
    stopped: bool = False
    taken: bool = False
    """It is the source of an assignment: the low-end only waits for the pull."""
    released: bool = False
    """We asked for its release: it is no source for anybody any more."""

    @property
    def grows(self) -> bool:
        """Its low-end still computes it."""
        return not (self.stopped or self.taken or self.released) and self.offered < self.limit


@dataclass(slots=True, eq=False)
class LiveRequest:
    """Everything the leader knows of one request. Mutable; owned by the core alone. While it waits, policies see it as a `WaitingView`."""

    submission: Submission
    lengths: OutputLengths
    arrival: int
    deadline: float
    """On the leader's monotonic clock; infinite without one."""
    stage: Stage
    phase: Phase
    attempt: int
    crashes: int
    num_tokens: int
    owner: WorkerRef | None = None
    seq: JobSeq | None = None
    """Of the job that made `owner` the owner; None: an earlier leader placed it."""
    source: Source | None = None
    placed_at: float = 0.0
    computed: int = -1
    """What the owner reports, -1 before its first word about this attempt."""
    missing_since: float | None = None
    ending: Ending | None = None
    cause: MoveCause = MoveCause.LOST_JOB
    head_start: HeadStart | None = None
    assists_lost: int = 0
    remembered: int = 0
    """Tokens of it that its owner is remembered to hold in cache."""
    story: Story = field(default_factory=Story)
    request_id: RequestId = field(init=False)
    num_prompt: int = field(init=False)
    key: tuple[int, float, int] = field(init=False)
    """Its place in the waiting line."""

    def __post_init__(self) -> None:
        self.request_id, self.num_prompt = self.submission.request_id, self.submission.num_prompt
        self.key = (self.submission.priority, self.deadline, self.arrival)

    # -- what policies see of it, beside its fields: `scheduler.view.WaitingView`

    @property
    def num_choices(self) -> int:
        return self.submission.num_choices

    @property
    def prefix(self) -> bytes:
        return self.submission.prefix

    @property
    def expected_output(self) -> int:
        return self.lengths.expect(self.num_prompt, self.submission.max_tokens, self.num_tokens - self.num_prompt)

    @property
    def mean_output(self) -> int:
        return self.lengths.mean(self.num_prompt, self.submission.max_tokens, self.num_tokens - self.num_prompt)

    # -- its life

    @property
    def next_attempt(self) -> int:
        return self.attempt + 1

    @property
    def delivered(self) -> int:
        return self.num_tokens - self.num_prompt

    def enter(self, stage: Stage) -> None:
        """Raises `InvalidTransition` if the table does not know the step."""
        if stage not in STEPS[self.stage]:
            raise InvalidTransition(f"{self.stage} -> {stage} is not a step of {self!r}; story: {self.story}")
        self.stage = stage
        self.story.tell(stage, self.attempt)

    def become(self, phase: Phase) -> None:
        """The record's phase has changed by our own write, or is about to be found so."""
        if phase is not self.phase:
            self.phase = advance(self.phase, phase, self.story)

    def learn(self, record: Record) -> None:
        """Takes over what the record says; what only this leader knows stays."""
        self.phase, self.attempt, self.crashes, self.num_tokens = record.phase, record.attempt, record.crashes, record.num_tokens
        self.owner, self.seq, self.source, self.computed, self.missing_since = record.owner, None, None, -1, None
        self.remembered = 0
        if record.cancel_asked and self.ending is None:
            self.ending = CANCELLED

    def __repr__(self) -> str:
        where = f" on {self.owner}" if self.owner else ""
        ending = f" -> {self.ending.phase}" if self.ending else ""
        return f"<Request {self.request_id} {self.stage}{ending} attempt {self.attempt}{where} tokens {self.num_tokens}>"


def whole_limit(request: LiveRequest) -> int:
    """The furthest any head start of this request could go."""
    return whole_granules(request.num_tokens - 1)


def stage_of(record: Record) -> Stage:
    """Where a request stands of which nothing but its record is known."""
    return {Phase.QUEUED: Stage.WAITING, Phase.RUNNING: Stage.RUNNING, Phase.MOVING: Stage.FENCING}[record.phase]


def from_record(record: Record, lengths: OutputLengths, arrival: int, deadline: float) -> LiveRequest:
    request = LiveRequest(
        record.submission,
        lengths,
        arrival,
        deadline,
        stage_of(record),
        record.phase,
        record.attempt,
        record.crashes,
        record.num_tokens,
        story=Story([(f"known as {record.phase}", record.attempt)]),
    )
    request.learn(record)
    return request
