"""Room for the next tokens: free blocks first, then head starts, then the newest of this worker's own requests."""

from __future__ import annotations

from workers.core_pulls import CorePulls
from workers.core_state import Owned
from workers.sequence import Sequence
from workers.settings import WorkerSettings


class CoreMemory(CorePulls):
    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._preempted: set[Sequence] = set()
        """In this round of planning: they do not take back what was taken from them."""

    # -- for a chunk

    def tokens_with_room(self, sequence: Sequence, want: int) -> int:
        """Allocates blocks for up to `want` more tokens and says how many of them fit now, 0 to `want`."""
        missing = self._missing(sequence, sequence.num_planned + want)
        if missing > 0:
            self._make_room(sequence, missing)
            got = min(missing, self._available(sequence))
            last = sequence.blocks[-1] if sequence.blocks else None
            sequence.blocks.extend(self.blocks.allocate(got, after=last))
        return min(want, len(sequence.blocks) * self.settings.block_tokens - sequence.num_planned)

    def _missing(self, sequence: Sequence, tokens: int) -> int:
        return self.blocks.blocks_for(tokens) - len(sequence.blocks)

    def _available(self, sequence: Sequence) -> int:
        """Free blocks this sequence may take. Decodes and the oldest request may take the last one."""
        kept = 0 if sequence.left == 1 and sequence.limit is None else self._watermark(sequence)
        return max(0, self.blocks.free_blocks - kept)

    def _coming(self, sequence: Sequence) -> int:
        """Also those that come back by themselves: at the end of the running step, or of pulls given up."""
        given_up = sum(len(intake.blocks) for intake in self.intakes.values() if intake.abandoned)
        return self._available(sequence) + self.blocks.pending_blocks + given_up

    def _watermark(self, sequence: Sequence) -> int:
        return 0 if sequence is self._oldest() else self.settings.watermark_blocks

    def _oldest(self) -> Sequence | None:
        return next((owned.sequence for owned in self.owned.values() if not owned.ended), None)

    # -- by taking it back

    def _make_room(self, sequence: Sequence, missing: int) -> None:
        """A head start gets what is free. Owned work takes head starts back; a request that could not move at all, newer requests too."""
        if sequence.limit is not None:
            return
        self._drop_assists(sequence, missing)
        need = 1 if sequence.left > 1 else missing
        while self._coming(sequence) < need:
            victim = self._victim(sequence)
            if victim is None:
                return
            self.preempt(victim)

    def _drop_assists(self, sequence: Sequence, missing: int) -> None:
        while self._coming(sequence) < missing:
            assist = self.newest_droppable()
            if assist is None:
                return
            self.drop_assist(assist, "its blocks were needed")

    def _victim(self, requester: Sequence) -> Owned | None:
        """The newest request behind the requester that holds blocks and is not in this step; one that is pulling comes last."""
        newer = [owned for owned in self.owned.values() if owned.sequence.arrival > requester.arrival and self._can_yield(owned)]
        return max(newer, key=lambda owned: (owned.intake is None, owned.sequence.arrival), default=None)

    def _can_yield(self, owned: Owned) -> bool:
        return bool(owned.sequence.blocks) and not self._is_planned(owned.sequence)

    def _is_planned(self, sequence: Sequence) -> bool:
        return self.planning is not None and self.planning.has(sequence)

    def preempt(self, owned: Owned) -> None:
        """It waits again on this worker: its tokens stay, its KV is computed anew."""
        if owned.intake:
            self.abandon(owned.intake)
            owned.intake = None
        self.story(owned.spec.request_id, "preempted", num_tokens=owned.sequence.num_tokens, num_computed=owned.sequence.num_computed)
        self.rewind(owned.sequence)
        self._preempted.add(owned.sequence)

    # -- for a start

    def may_start(self, owned: Owned) -> bool:
        """A request without blocks starts once all of its known tokens have room beside what is promised; the oldest at once."""
        sequence = owned.sequence
        if sequence.blocks or sequence is self._oldest():
            return sequence not in self._preempted
        needed = self.blocks.blocks_for(sequence.num_tokens)
        room = self.blocks.free_blocks + self.reclaimable_blocks() - self.settings.watermark_blocks
        return sequence not in self._preempted and room >= needed and room - self._promised() >= needed

    def _promised(self) -> int:
        """Blocks that started requests still need for the tokens they know."""
        started = (owned.sequence for owned in self.owned.values() if owned.sequence.blocks)
        return sum(max(0, self._missing(sequence, sequence.num_tokens)) for sequence in started)

    def room_for_pull(self, owned: Owned) -> bool:
        """Whether the blocks of the span are free, after taking back what comes behind this request."""
        assert owned.source is not None
        missing = self.blocks.blocks_for(owned.source.tokens)
        if not self.may_start(owned):
            return False
        self._drop_assists(owned.sequence, missing)
        while self._coming(owned.sequence) < missing:
            victim = self._victim(owned.sequence) if owned.sequence is self._oldest() else None
            if victim is None:
                break
            self.preempt(victim)
        return self._available(owned.sequence) >= missing

    def never_fits(self, sequence: Sequence) -> bool:
        """Even alone, its next token has no room here."""
        return self.blocks.blocks_for(sequence.num_tokens) > self.settings.total_blocks
