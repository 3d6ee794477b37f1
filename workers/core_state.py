"""What a worker core knows, and the books it keeps: the ground floor of `WorkerCore`.

The core is one class in floors, one file each; a floor calls only those below it:
state -> cache -> reports -> assists -> pulls -> memory -> requests -> steps -> `workers.core`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from shared.messages import Cancel, Returned, Source, WorkerState
from shared.types import AssistId, BlockId, RequestId, RequestSpec, TokenSpan, TransferId, WorkerRef
from workers.batching import PlannedStep, StepBuilder
from workers.block_manager import BlockManager
from workers.events import TellStory, WorkerCommand
from workers.kv_transfer import Intake, Offer, SendKey
from workers.sequence import Sequence
from workers.settings import WorkerSettings

REMEMBERED = 4096
"""Ended requests, attempts and assists that late messages are judged by."""


@dataclass(eq=False, slots=True)
class Owned:
    """A request of this worker: it alone writes the log under `attempt`, until the record is closed."""

    spec: RequestSpec
    attempt: int
    choices: list[Sequence]
    """Those that have not ended, in order. The first one prefills the prompt; the others start behind its whole blocks."""
    source: Source | None = None
    """A head start that is still to be pulled, by the first choice."""
    intake: Intake | None = None
    """The pull under way: no choice is in any step."""
    ended: bool = False
    """All choices have ended; waits for `Closed`."""
    generated: int = 0
    """Tokens of the choices that have ended."""

    told_cached: bool = False
    """Its first entry in the log said what the cache had."""

    def take_cached(self) -> int:
        """Prompt tokens found in the cache, for the first entry of this attempt; 0 for later ones."""
        cached = 0 if self.told_cached else self.sequence.num_cached or 0
        self.told_cached = True
        return cached

    @property
    def runnable(self) -> bool:
        return not (self.ended or self.intake or self.source)

    @property
    def sequence(self) -> Sequence:
        """The first choice that has not ended."""
        return self.choices[0]

    @property
    def num_tokens(self) -> int:
        """The prompt once, and what all choices generated."""
        return len(self.spec.prompt) + self.generated + sum(sequence.num_generated for sequence in self.choices)

    def choice(self, number: int) -> Sequence | None:
        """None: it has ended."""
        return next((sequence for sequence in self.choices if sequence.choice == number), None)


@dataclass(eq=False, slots=True)
class Assist:
    """A head start given here: computed up to a limit, offered by whole granules, owned by nobody's progress."""

    assist: AssistId
    sequence: Sequence
    offer: Offer
    stopped: bool = False
    taken_by: WorkerRef | None = None


@dataclass(eq=False, slots=True)
class Send:
    """Blocks that the transport is reading for a requester."""

    offer: Offer
    blocks: tuple[BlockId, ...]


class CoreState:
    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.now = 0.0
        self.blocks = BlockManager(settings.total_blocks, settings.block_tokens)
        self.owned: dict[RequestId, Owned] = {}
        """In order of arrival."""
        self.assists: dict[AssistId, Assist] = {}
        self.intakes: dict[TransferId, Intake] = {}
        self.sends: dict[SendKey, Send] = {}
        self.running: deque[PlannedStep] = deque()
        """Launched and not collected, oldest first."""
        self.planning: StepBuilder | None = None
        """The step that is being put together."""
        self.returned: dict[RequestId, Returned] = {}
        self.suspects: deque[Sequence] = deque()
        """Sequences of a failed step: computed one at a time until each has proved itself."""
        self.state = WorkerState.READY
        self.drain_at = float("inf")
        self.broken = ""
        """What its engine last failed with, if it did so again and again: a worker that takes itself out."""
        self._fences: OrderedDict[RequestId, int] = OrderedDict()
        self._called_off: OrderedDict[RequestId, Cancel] = OrderedDict()
        self._gone: OrderedDict[AssistId | SendKey, None] = OrderedDict()
        self._arrivals = 0
        self._scheduler_heard = 0.0
        self._commands: list[WorkerCommand] = []

    # -- what the floors above share

    def command(self, command: WorkerCommand) -> None:
        self._commands.append(command)

    def story(self, request_id: RequestId, what: str, **data: object) -> None:
        self.command(TellStory(request_id, what, data))

    def next_arrival(self) -> int:
        self._arrivals += 1
        return self._arrivals

    def fence(self, request_id: RequestId) -> int:
        """Attempts of this request below it are over, here or everywhere."""
        return self._fences.get(request_id, 0)

    def raise_fence(self, request_id: RequestId, attempt: int) -> None:
        self._fences[request_id] = max(attempt, self.fence(request_id))
        self._fences.move_to_end(request_id)
        while len(self._fences) > REMEMBERED:
            self._fences.popitem(last=False)

    def call_off(self, cancel: Cancel) -> None:
        """It came before the assignment that it ends: that may still wait in the stream, or be loading."""
        self._called_off[cancel.request_id] = cancel
        self._called_off.move_to_end(cancel.request_id)
        while len(self._called_off) > REMEMBERED:
            self._called_off.popitem(last=False)

    def called_off(self, request_id: RequestId) -> Cancel | None:
        """Once: whoever asks ends the request."""
        return self._called_off.pop(request_id, None)

    def is_gone(self, key: AssistId | SendKey) -> bool:
        return key in self._gone

    def mark_gone(self, key: AssistId | SendKey) -> None:
        """A late message about this head start or send finds nothing to do."""
        self._gone[key] = None
        self._gone.move_to_end(key)
        while len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    def rewind(self, sequence: Sequence) -> None:
        """All of its blocks go back, all of its progress falls; its known tokens stay."""
        self.blocks.release(sequence.blocks)
        sequence.blocks.clear()
        sequence.num_sealed = 0
        sequence.rewind()

    # -- tables

    def span_blocks(self, table: tuple[BlockId, ...], span: TokenSpan) -> tuple[BlockId, ...]:
        """The blocks of a table that a transfer of whole granules touches."""
        return table[span.start // self.settings.block_tokens :]

    def pulled_blocks(self, intake: Intake) -> tuple[BlockId, ...]:
        """Those that a pull writes: what came from the cache before them is not touched."""
        return self.span_blocks(intake.blocks, intake.span)

    def offered_blocks(self, assist: Assist) -> list[BlockId]:
        return assist.sequence.blocks[: assist.offer.tokens // self.settings.block_tokens]

    # -- figures

    @property
    def sequences(self) -> list[Sequence]:
        choices = [sequence for owned in self.owned.values() for sequence in owned.choices]
        return choices + [assist.sequence for assist in self.assists.values()]

    def shared_blocks(self, sequence: Sequence) -> int:
        """Whole blocks of the prompt, of all but its last token: what the choices of a request have in common."""
        return (sequence.num_prompt - 1) // self.settings.block_tokens

    @property
    def free_sequences(self) -> int:
        """Places for more jobs: the shell reads no further ahead."""
        return max(0, self.places - len(self.assists))

    @property
    def places(self) -> int:
        """Sequences beside those of running requests that this worker may hold; negative if it owns more choices than fit in a step."""
        return self.settings.max_sequences - sum(len(owned.choices) for owned in self.owned.values())

    @property
    def readable_jobs(self) -> int:
        """Jobs that the shell may read now. With every place taken it is one, as long as a head start holds one of them: the job
        may be that head start's own request, which needs no other place, and behind which everybody would wait for ever."""
        return self.free_sequences or min(1, len(self.assists))

    @property
    def idle(self) -> bool:
        """Nothing runs, nothing is held, nothing is under way: a drained worker may leave."""
        return not (self.owned or self.assists or self.intakes or self.sends or self.running)

    @property
    def drained(self) -> bool:
        """Willing to take nothing, and nothing left: the next report is the last word."""
        return self.state is WorkerState.DRAINING and self.idle

    # -- invariants

    def check(self) -> None:
        """Conservation of blocks, and every record in agreement with every other. Raises `AssertionError`."""
        writes = (number for step in self.running for number in step.written)
        intakes = (number for intake in self.intakes.values() for number in self.pulled_blocks(intake))
        sends = (number for send in self.sends.values() for number in send.blocks)
        offers = (number for assist in self.assists.values() for number in self.offered_blocks(assist))
        self.blocks.check([sequence.blocks for sequence in self.sequences], writes, [*intakes, *sends], offers)
        for sequence in self.sequences:
            sequence.check(self.settings.block_tokens)
        self._check_owned()
        self._check_assists()
        self._check_written()
        if self.idle and self.blocks.free_blocks != self.settings.total_blocks:
            raise AssertionError(f"idle, and yet {self.blocks!r}")

    def _check_owned(self) -> None:
        for request_id, owned in self.owned.items():
            if owned.intake and (
                self.intakes.get(owned.intake.transfer) is not owned.intake or owned.sequence.num_planned != owned.intake.span.start
            ):
                raise AssertionError(f"{request_id} pulls and computes at once, or its pull is unknown")
            if owned.ended != (not owned.choices) or (owned.ended and (owned.intake or owned.source)):
                raise AssertionError(f"{request_id} has ended and still has choices or pulls, or has none and goes on")
            if owned.attempt < self.fence(request_id):
                raise AssertionError(f"{request_id} runs under attempt {owned.attempt}, below its fence {self.fence(request_id)}")

    def _check_written(self) -> None:
        """What two sequences read, nobody writes."""
        for step in self.running:
            own = [number for row in step.rows if row.live for number in row.sequence.blocks[row.start // self.settings.block_tokens :]]
            if shared := len(own) - self.blocks.unshared(own):
                raise AssertionError(f"step {step.step} writes {shared} shared blocks")

    def _check_assists(self) -> None:
        for assist in self.assists.values():
            if assist.offer.tokens > assist.sequence.num_computed:
                raise AssertionError(f"{assist.assist} offers {assist.offer.tokens} tokens of {assist.sequence!r}")
            if any(self.sends[key].offer is not assist.offer for key in assist.offer.sends):
                raise AssertionError(f"{assist.assist} is sent by a send of another")
