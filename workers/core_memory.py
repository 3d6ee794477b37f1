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
        self._noted: int | None = None
        self._noting = False

    # -- for a chunk

    def tokens_with_room(self, sequence: Sequence, want: int) -> int:
        """Allocates blocks for up to `want` more tokens and says how many of them fit now, 0 to `want`."""
        room = len(sequence.blocks) * self.settings.block_tokens - sequence.num_planned
        if room >= want:
            return want
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
        given_up = sum(len(self.pulled_blocks(intake)) for intake in self.intakes.values() if intake.abandoned)
        return self._available(sequence) + self.blocks.pending_blocks + given_up

    def _watermark(self, sequence: Sequence) -> int:
        return 0 if sequence is self._oldest() else self.settings.watermark_blocks

    def _oldest(self) -> Sequence | None:
        return next((owned.sequence for owned in self.owned.values() if not owned.ended), None)

    def _waits_for_prompt(self, owned: Owned, sequence: Sequence) -> bool:
        """The first choice computes or pulls the prompt's whole blocks for all of them."""
        return not sequence.blocks and sequence is not owned.sequence and self.shared_blocks(sequence) > 0

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
            self.preempt(*victim)

    def _drop_assists(self, sequence: Sequence, missing: int) -> None:
        while self._coming(sequence) < missing:
            assist = self.newest_droppable()
            if assist is None:
                return
            self.drop_assist(assist, "its blocks were needed")

    def _victim(self, requester: Sequence) -> tuple[Owned, Sequence] | None:
        """The newest choice behind the requester that holds blocks and is not in this step; first those with blocks of their own,
        and one that is pulling comes last."""
        choices = [(owned, sequence) for owned in self.owned.values() for sequence in owned.choices]
        newer = [pair for pair in choices if pair[1].arrival > requester.arrival and self._can_yield(pair[1])]
        return max(newer, key=lambda pair: (pair[0].intake is None, self._gives_back(pair[1]), pair[1].arrival), default=None)

    def _can_yield(self, sequence: Sequence) -> bool:
        return bool(sequence.blocks) and not self._is_planned(sequence)

    def _gives_back(self, sequence: Sequence) -> bool:
        return self.blocks.unshared(sequence.blocks) > 0

    def _is_planned(self, sequence: Sequence) -> bool:
        return self.planning is not None and self.planning.has(sequence)

    def preempt(self, owned: Owned, sequence: Sequence) -> None:
        """This choice waits again on this worker: its tokens stay, its KV is computed anew."""
        if owned.intake:
            self.abandon(owned.intake)
            owned.intake = None
        figures = {"choice": sequence.choice, "num_tokens": sequence.num_tokens, "num_computed": sequence.num_computed}
        self.story(owned.spec.request_id, "preempted", **figures)
        self.rewind(sequence)
        self._preempted.add(sequence)

    # -- for a start

    def may_start(self, owned: Owned, sequence: Sequence) -> bool:
        """A choice without blocks starts once all of its known tokens have room beside what is promised; the oldest at once.

        The first choice starts for all of them, and so needs the room of all; the others wait for the prompt.
        """
        if self._preempted and sequence in self._preempted:
            return False
        if sequence.blocks:
            return True
        if self._waits_for_prompt(owned, sequence):
            return False
        if sequence is self._oldest():
            return True
        needed = sum(self._unmet(owned, choice) for choice in owned.choices) if sequence is owned.sequence else self._unmet(owned, sequence)
        room = self.blocks.free_blocks + self.reclaimable_blocks() - self.settings.watermark_blocks - self._promised()
        return room >= needed or room >= needed - self._shareable(sequence)

    def _unmet(self, owned: Owned, sequence: Sequence) -> int:
        """Blocks that a choice still needs for the tokens it knows."""
        shared = self.shared_blocks(sequence) if self._waits_for_prompt(owned, sequence) else 0
        return max(0, self._missing(sequence, sequence.num_tokens) - shared)

    def _shareable(self, sequence: Sequence) -> int:
        """Blocks of its prefix that running sequences hold: it takes no free ones for them."""
        return sum(1 for number in self.cached_prefix(sequence) if not self.blocks.is_cached(number))

    def startable(self) -> list[Sequence]:
        """Choices that may compute in the coming step. What is promised is counted once for all of them: nothing changes meanwhile."""
        found: list[Sequence] = []
        self._noted = None
        self._noting = True
        for owned in self.owned.values():
            if owned.ended or owned.intake or owned.source:
                continue
            found += [each for each in owned.choices if (each.blocks and not self._preempted) or self.may_start(owned, each)]
        self._noting = False
        return found

    def _promised(self) -> int:
        if self._noting and self._noted is not None:
            return self._noted
        self._noted = self._count_promised()
        return self._noted

    def _count_promised(self) -> int:
        """Blocks that requests which have started still need for the tokens they know."""
        started = [owned for owned in self.owned.values() if any(sequence.blocks for sequence in owned.choices)]
        return sum(self._unmet(owned, sequence) for owned in started for sequence in owned.choices)

    def room_for_pull(self, owned: Owned) -> bool:
        """Whether the blocks of the span are free, after taking back what comes behind this request."""
        assert owned.source is not None
        missing = self.blocks.blocks_for(owned.source.tokens)
        if not self.may_start(owned, owned.sequence):
            return False
        self._drop_assists(owned.sequence, missing)
        while self._coming(owned.sequence) < missing:
            victim = self._victim(owned.sequence) if owned.sequence is self._oldest() else None
            if victim is None:
                break
            self.preempt(*victim)
        return self._available(owned.sequence) >= missing

    def never_fits(self, sequence: Sequence) -> bool:
        """Even alone, its next token has no room here."""
        return self.blocks.blocks_for(sequence.num_tokens) > self.settings.total_blocks
