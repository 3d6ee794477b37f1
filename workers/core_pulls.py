"""Head starts taken over from elsewhere: blocks allocated, a pull under a deadline, and only what was verified counts."""

from __future__ import annotations

from dataclasses import replace

from shared.messages import AbandonTransfer, PullRefused, ReleaseAssist, Source
from shared.types import GRANULE_TOKENS, TokenSpan, TransferId, WorkerRef, whole_granules
from workers.core_assists import CoreAssists
from workers.core_state import Owned
from workers.events import AbandonPull, DropPeer, PullEnded, StartPull, TellWorker
from workers.kv_transfer import Intake
from workers.settings import WorkerSettings


class CorePulls(CoreAssists):
    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._transfers = 0

    # -- begun

    def accept_source(self, owned: Owned) -> None:
        """What can be pulled of the head start: whole granules, and never the last token. Nothing: it is released."""
        source = owned.source
        if source is None:
            return
        tokens = min(whole_granules(source.tokens), whole_granules(owned.sequence.num_tokens - 1))
        owned.source = replace(source, tokens=tokens) if tokens > 0 else None
        if source.worker == self.settings.ref:
            owned.source = None
        elif owned.source is None:
            self.release_source(source)

    def skip_covered_pull(self, owned: Owned) -> None:
        """What the cache has need not be pulled: the head start is released as soon as it has nothing more than that."""
        source = owned.source
        if source and len(self.cached_prefix(owned.sequence)) * self.settings.block_tokens >= source.tokens:
            owned.source = None
            self.release_source(source)

    def start_pull(self, owned: Owned) -> None:
        """Blocks for the whole span are free: take them and ask for the bytes that the cache does not have.

        Until it ends, the sequence is in no step. A cached prefix counts by whole granules: the rest of one that ends within a
        granule is pulled too, into blocks of its own.
        """
        source = owned.source
        assert source is not None
        sequence = owned.sequence
        span = TokenSpan(self.start_from_cache(sequence, GRANULE_TOKENS), source.tokens)
        last = sequence.blocks[-1] if sequence.blocks else None
        sequence.blocks.extend(self.blocks.allocate(self.blocks.blocks_for(len(span)), after=last))
        patience = self.pull_patience(span, source.host)
        owned.intake = self._new_intake(owned, span, self.now + 2 * patience)
        owned.source = None
        self.command(self._start_command(owned.intake, patience))

    def _new_intake(self, owned: Owned, span: TokenSpan, deadline: float) -> Intake:
        assert owned.source is not None
        self._transfers += 1
        blocks = tuple(owned.sequence.blocks)
        intake = Intake(
            TransferId(self._transfers),
            owned.spec.request_id,
            owned.attempt,
            owned.source,
            span,
            blocks,
            deadline,
            started=self.now,
            sharing=1 + len(self.intakes),
        )
        self.intakes[intake.transfer] = intake
        self.blocks.begin_transfer(self.pulled_blocks(intake))
        intake.start()
        return intake

    def _start_command(self, intake: Intake, patience: float) -> StartPull:
        source = intake.source
        return StartPull(
            intake.transfer, intake.request_id, intake.attempt, source.assist, source.worker, intake.span, intake.blocks, patience
        )

    def pull_patience(self, span: TokenSpan, host: str) -> float:
        """Seconds from now for a pull: a multiple of what the link should take, times the pulls that share it."""
        profile, shared = self.settings.profile, self.settings.pull_patience * (1 + len(self.intakes))
        profiled = shared * profile.transfer_seconds(len(span)) if profile else 0.0
        measured = shared * self.links.seconds(host, self._bytes(len(span))) if self.links else 0.0
        # What was late is believed slow, and gets longer; where nothing comes at all, that must end somewhere.
        return max(self.settings.pull_floor_s, profiled, min(measured, self.settings.pull_ceiling_s))

    # -- ended

    def on_pull_ended(self, event: PullEnded) -> None:
        intake = self.intakes.pop(event.transfer, None)
        if intake is None:
            return
        self.blocks.end_transfer(self.pulled_blocks(intake))
        good = min(whole_granules(event.good_tokens), len(intake.span))
        intake.end(good, event.error)
        self.note_pull(intake, came=good > 0 and good == len(intake.span))
        if intake.releases_source:
            self.release_source(intake.source)
        owned = self.owned.get(intake.request_id)
        if owned and owned.intake is intake:
            self._take_over(owned, intake.span.start + good)
        self._tell_pull(intake, event, good)

    def _take_over(self, owned: Owned, tokens: int) -> None:
        """Only now does progress rise, and only now may others find what was pulled; what was bad is computed like any other prefill."""
        owned.intake = None
        owned.sequence.rewind(tokens)
        self.seal(owned.sequence)
        self.fork(owned)

    def fork(self, owned: Owned) -> None:
        """Choices that hold nothing start behind the prompt's whole blocks, as soon as one choice has computed them."""
        if len(owned.choices) < 2:
            return
        shared = self.shared_blocks(owned.sequence)
        computed = shared * self.settings.block_tokens
        giver = next((sequence for sequence in owned.choices if sequence.blocks and sequence.num_computed >= computed), None)
        if giver and shared:
            for sequence in [sequence for sequence in owned.choices if not sequence.blocks]:
                sequence.fork_from(giver, shared, self.settings.block_tokens)
                self.blocks.share(sequence.blocks)

    def release_source(self, source: Source) -> None:
        """This owner needs the head start no more; its giver hears so from the owner itself."""
        self.command(TellWorker(source.worker, ReleaseAssist(source.assist)))

    def _tell_pull(self, intake: Intake, event: PullEnded, good: int) -> None:
        self.story(
            intake.request_id,
            "pulled",
            source=str(intake.source.worker),
            tokens=len(intake.span),
            good_tokens=good,
            bytes=event.bytes_moved,
            seconds=event.seconds,
            error=event.error,
        )

    # -- given up

    def abandon(self, intake: Intake, *, releases_source: bool = True, tells_sender: bool = True) -> None:
        """`PullEnded` follows; until then the blocks stay in flight, whoever let go of them."""
        intake.releases_source = intake.releases_source and releases_source
        if not intake.abandoned:
            intake.abandoned = True
            self.command(AbandonPull(intake.transfer, intake.source.worker))
            if tells_sender:
                self.command(TellWorker(intake.source.worker, AbandonTransfer(intake.transfer, self.settings.ref)))

    def on_pull_refused(self, event: PullRefused) -> None:
        intake = self.intakes.get(event.transfer)
        if intake and intake.source.worker == event.sender:
            self.story(intake.request_id, "pull_refused", source=str(event.sender), reason=event.reason)
            self.abandon(intake, tells_sender=False)

    def on_peer_lost(self, peer: WorkerRef) -> None:
        for intake in [intake for intake in self.intakes.values() if intake.source.worker == peer]:
            self.abandon(intake, tells_sender=False)
        self.command(DropPeer(peer))

    def expire_pulls(self) -> None:
        """The transport keeps the deadline; this is for a transport that does not answer at all."""
        for intake in [intake for intake in self.intakes.values() if self.now >= intake.deadline]:
            self.abandon(intake)
