"""Reports: heartbeat, credit and complete lists, so that whatever is lost heals with the next one."""

from __future__ import annotations

from itertools import islice

from shared.messages import AssistState, Credit, OwnedState, Report, WorkerState
from shared.profile import PeerLink, Profile, StepShape
from shared.types import JobSeq, RequestId
from workers.core_cache import CoreCache
from workers.core_state import Owned
from workers.engine import StepPlan
from workers.events import LinkProbed, SendReport
from workers.kv_transfer import Intake
from workers.peer_links import PeerLinks
from workers.sequence import Sequence
from workers.settings import WorkerSettings
from workers.step_shape import shape_of
from workers.step_speed import StepSpeed

NO_CREDIT = Credit(tokens=0, blocks=0, sequences=0)
FEW = 8
LEARNING_RATE = 0.1
"""Weight of the latest output in the expected length of outputs."""
PROFILE_EVERY = 10
"""Reports: a corrected profile is told at once, and again with every so manieth, since a report may be lost and leaders change."""


class CoreReports(CoreCache):
    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._counter = 0
        self._seen = JobSeq(0, 0)
        self._reported_at = float("-inf")
        self._reported_seen = self._seen
        self._reported_credit = NO_CREDIT
        self._closed: list[RequestId] = []
        self._news = False
        self._expected_output = float(settings.expected_output_tokens)
        self._speed = StepSpeed(settings.profile) if settings.profile else None
        self._profile_news = self._was_corrected = False
        self.links = PeerLinks(settings.profile) if settings.profile else None
        self._links_news = False

    # -- what is told

    def account(self, seq: JobSeq) -> None:
        """From the next report on, this job is in the figures."""
        self._seen = max(self._seen, seq)
        self._scheduler_heard = self.now

    def hear_scheduler(self) -> None:
        self._scheduler_heard = self.now

    def tell_soon(self) -> None:
        """Something the scheduler waits for has happened: report after this event."""
        self._news = True

    def note_closed(self, request_id: RequestId) -> None:
        self._closed.append(request_id)
        self.tell_soon()

    def learn_output(self, tokens: int) -> None:
        self._expected_output += LEARNING_RATE * (tokens - self._expected_output)

    def note_step(self, plan: StepPlan, seconds: float) -> None:
        """Live step times correct the profile: who is throttled is believed to be slower, and again when it ends."""
        if self._speed is not None and self._speed.saw(self._shape_of(plan), seconds, self.now):
            self._profile_news = self._was_corrected = True
            self.tell_soon()

    def _shape_of(self, plan: StepPlan) -> StepShape:
        return shape_of(plan)

    def note_pull(self, intake: Intake, *, came: bool) -> None:
        """Real pulls correct the link to their host. One that was not there in time has taken at least so long.

        Pulls that were under way together shared the link: each counts for its part.
        """
        late = not intake.abandoned and self.now >= intake.deadline - (intake.deadline - intake.started) / 2
        if self.links is None or not (came or late):
            return
        seconds = 2 * (self.now - intake.started) / (intake.sharing + 1 + len(self.intakes))
        if self.links.saw(intake.source.host, self._bytes(len(intake.span)), seconds, self.now):
            self._tell_links()

    def note_probe(self, event: LinkProbed) -> None:
        if self.links is not None and self.links.probed(event.host, event.link_s, event.link_bytes_per_s, self.now):
            self._tell_links()

    def _tell_links(self) -> None:
        self._links_news = True
        self.tell_soon()

    def _bytes(self, tokens: int) -> int:
        return tokens * self.settings.profile.kv_bytes_per_token if self.settings.profile else 0

    @property
    def speed_factor(self) -> float:
        """How many times as long as profiled the steps take now."""
        return self._speed.factor if self._speed else 1.0

    # -- figures

    def credit(self) -> Credit:
        """What this worker could take on now.

        Head starts count against neither tokens nor blocks that nobody is pulling: owned work comes first and takes them back.
        """
        if self.state is not WorkerState.READY:
            return NO_CREDIT
        backlog, growth = self._demand()
        blocks = self.blocks.free_blocks + self.blocks.pending_blocks + self.reclaimable_blocks() - growth
        return Credit(max(0, self.settings.token_budget - backlog), max(0, blocks), self.free_sequences)

    def _demand(self) -> tuple[int, int]:
        """Tokens that owned requests ask of the coming steps, and blocks that they are expected to take yet."""
        backlog = growth = 0
        expected, size = int(self._expected_output), self.settings.block_tokens
        for owned in self.owned.values():
            choices = owned.choices
            if (
                len(choices) == 1
                and not (owned.intake or owned.source)
                and (first := choices[0]).num_tokens + first.pending - first.num_planned <= 1
            ):
                # The common case, a request that decodes, costs hardly a call: this runs with every event.
                known = first.num_tokens
                final = first.num_prompt + expected
                if final <= known:
                    final = known + 1
                if final > first.max_tokens:
                    final = first.max_tokens
                more = -(-final // size) - len(first.blocks)
                backlog += 1
                if more > 0:
                    growth += more
            else:
                backlog += self._backlog(owned)
                growth += self._growth(owned)
        return backlog, growth

    def _backlog(self, owned: Owned) -> int:
        """Tokens this request still asks of the coming steps: one per choice that decodes, its unplanned prefill otherwise."""
        coming = len(owned.intake.span) if owned.intake else owned.source.tokens if owned.source else 0
        return sum(max(1, sequence.left - self._comes_by_itself(owned, sequence, coming)) for sequence in owned.choices)

    def _comes_by_itself(self, owned: Owned, sequence: Sequence, pulled: int) -> int:
        """Tokens that a choice without blocks need not compute: the first one pulls them, the others share them."""
        first = sequence is owned.sequence
        return pulled if first else 0 if sequence.blocks else self.shared_blocks(sequence) * self.settings.block_tokens

    def _growth(self, owned: Owned) -> int:
        """Blocks this request is expected to take yet."""
        return sum(self._growth_of(sequence, sequence is owned.sequence) for sequence in owned.choices)

    def _growth_of(self, sequence: Sequence, first: bool) -> int:
        ahead = max(1, int(self._expected_output) - sequence.num_generated)
        final = min(sequence.max_tokens, sequence.num_tokens + ahead)
        held = len(sequence.blocks) if first or sequence.blocks else self.shared_blocks(sequence)
        return max(0, self.blocks.blocks_for(final) - held)

    def reclaimable_blocks(self) -> int:
        """Blocks of head starts that owned work may take back: nobody pulls them or is about to, and nobody else uses them."""
        return sum(
            self.blocks.unshared(assist.sequence.blocks) for assist in self.assists.values() if not (assist.offer.sends or assist.taken_by)
        )

    # -- when

    def report_if_due(self) -> None:
        """At once if there is news or fresh credit, else once per interval."""
        due = self._news or self.now - self._reported_at >= self.settings.report_s
        if not due and self._is_busy():
            return
        credit = self.credit()
        if due or self._is_fresh(credit):
            self._send_report(credit)

    def _is_busy(self) -> bool:
        """There is no credit: the few newest requests alone ask for the coming step's tokens. This runs with every event."""
        left = self.settings.token_budget
        for owned in islice(reversed(self.owned.values()), FEW):
            left -= self._backlog(owned)
            if left <= 0:
                return True
        return False

    def _is_fresh(self, credit: Credit) -> bool:
        """Credit appeared or grew by much, or is there although the scheduler still subtracts jobs already counted."""
        if not (credit.tokens and credit.sequences and credit.blocks):
            return False
        told = self._reported_credit
        appeared = not (told.tokens and told.sequences and told.blocks)
        more_tokens = credit.tokens - told.tokens >= self.settings.token_budget / 4
        more_blocks = credit.blocks - told.blocks >= self.settings.total_blocks / 4
        return appeared or more_tokens or more_blocks or self._seen != self._reported_seen

    def _send_report(self, credit: Credit) -> None:
        self._counter += 1
        self._reported_at, self._reported_seen, self._reported_credit = self.now, self._seen, credit
        report = Report(
            ref=self.settings.ref,
            counter=self._counter,
            state=self.state,
            seen=self._seen,
            credit=credit,
            owned=tuple(self._owned_state(owned) for owned in self.owned.values()),
            assists=self._assist_states(),
            closed=tuple(self._closed),
            returned=tuple(self.returned.values()),
            profile=self._corrected_profile(),
            links=self._measured_links(),
        )
        self._closed.clear()
        self._news = False
        self.command(SendReport(report))

    def _corrected_profile(self) -> Profile | None:
        """None where there is nothing to say beside what membership says."""
        repeated = self._was_corrected and self._counter % PROFILE_EVERY == 0
        if self._speed is None or not (self._profile_news or repeated):
            return None
        self._profile_news = False
        return self._speed.profile

    def _measured_links(self) -> tuple[PeerLink, ...] | None:
        """As with the profile: news at once, and again from time to time."""
        if self.links is None:
            return None
        changed = self.links.forget(self.now) or self._links_news
        told = self.links.told()
        if not (changed or (told and self._counter % PROFILE_EVERY == 0)):
            return None
        self._links_news = False
        return told

    def _owned_state(self, owned: Owned) -> OwnedState:
        """One whose choices have ended has nothing left to compute, although its blocks are free already."""
        if len(owned.choices) == 1 and not owned.generated and owned.spec.sampling.n == 1:
            only = owned.choices[0]
            return OwnedState(owned.spec.request_id, owned.attempt, only.num_tokens, only.num_computed)
        return OwnedState(owned.spec.request_id, owned.attempt, owned.num_tokens, self._computed(owned))

    def _computed(self, owned: Owned) -> int:
        """The prompt counts as far as the choice that has most of it. Several choices compute its last, partial block apart: it
        counts with the blocks that they share."""
        prompt = len(owned.spec.prompt)
        most = max((sequence.num_computed for sequence in owned.choices), default=prompt)
        if owned.spec.sampling.n > 1 and owned.choices and most >= self.shared_blocks(owned.sequence) * self.settings.block_tokens:
            most = prompt
        behind = sum(max(0, sequence.num_computed - prompt) for sequence in owned.choices)
        return min(prompt, most) + behind + owned.generated

    def _assist_states(self) -> tuple[AssistState, ...]:
        return tuple(
            AssistState(assist.assist, assist.sequence.spec.request_id, assist.offer.tokens, assist.stopped)
            for assist in self.assists.values()
        )
