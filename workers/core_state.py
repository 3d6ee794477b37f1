"""What a worker core knows, and the books it keeps: the ground floor of `WorkerCore`.

The core is one class in floors, one file each; a floor calls only those below it:
state -> reports -> assists -> pulls -> memory -> requests -> steps -> `workers.core`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from shared.messages import Returned, Source, WorkerState
from shared.types import AssistId, BlockId, RequestId, RequestSpec, TransferId, WorkerRef
from workers.batching import PlannedStep, StepBuilder
from workers.block_manager import ROOT_KEY, BlockManager
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
    sequence: Sequence
    source: Source | None = None
    """A head start that is still to be pulled."""
    intake: Intake | None = None
    """The pull under way: the sequence is in no step."""
    ended: bool = False
    """The choice has ended; waits for `Closed`."""

    @property
    def runnable(self) -> bool:
        return not (self.ended or self.intake or self.source)


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
        self._fences: OrderedDict[RequestId, int] = OrderedDict()
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
        sequence.keys.clear()
        sequence.rewind()

    def seal(self, sequence: Sequence) -> None:
        """Names the contents of the blocks that are now full and believed."""
        size = self.settings.block_tokens
        for at in range(len(sequence.keys), sequence.num_computed // size):
            parent = sequence.keys[-1] if sequence.keys else ROOT_KEY
            sequence.keys.append(self.blocks.seal(sequence.blocks[at], parent, sequence.ids(at * size, (at + 1) * size)))

    # -- figures

    @property
    def sequences(self) -> list[Sequence]:
        return [owned.sequence for owned in self.owned.values()] + [assist.sequence for assist in self.assists.values()]

    @property
    def free_sequences(self) -> int:
        """Places for more jobs: the shell reads no further ahead."""
        return max(0, self.places - len(self.assists))

    @property
    def places(self) -> int:
        """Sequences beside those of running requests that this worker may hold."""
        return self.settings.max_sequences - sum(1 for owned in self.owned.values() if not owned.ended)

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
        intakes = (number for intake in self.intakes.values() for number in intake.blocks)
        sends = (number for send in self.sends.values() for number in send.blocks)
        self.blocks.check([sequence.blocks for sequence in self.sequences], writes, [*intakes, *sends])
        for sequence in self.sequences:
            sequence.check(self.settings.block_tokens)
        self._check_owned()
        self._check_assists()
        if self.idle and self.blocks.free_blocks != self.settings.total_blocks:
            raise AssertionError(f"idle, and yet {self.blocks!r}")

    def _check_owned(self) -> None:
        for request_id, owned in self.owned.items():
            if owned.intake and (self.intakes.get(owned.intake.transfer) is not owned.intake or owned.sequence.num_planned):
                raise AssertionError(f"{request_id} pulls and computes at once, or its pull is unknown")
            if owned.ended and (owned.sequence.blocks or owned.intake):
                raise AssertionError(f"{request_id} has ended and still holds blocks or pulls")
            if owned.attempt < self.fence(request_id):
                raise AssertionError(f"{request_id} runs under attempt {owned.attempt}, below its fence {self.fence(request_id)}")

    def _check_assists(self) -> None:
        for assist in self.assists.values():
            if assist.offer.tokens > assist.sequence.num_computed:
                raise AssertionError(f"{assist.assist} offers {assist.offer.tokens} tokens of {assist.sequence!r}")
            if any(self.sends[key].offer is not assist.offer for key in assist.offer.sends):
                raise AssertionError(f"{assist.assist} is sent by a send of another")
