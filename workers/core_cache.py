"""Cached prefixes: blocks named by their contents as they fill, and found again by sequences that begin alike."""

from __future__ import annotations

from collections.abc import Iterator

from shared.types import BlockId
from workers.core_state import CoreState
from workers.prefix_cache import Content
from workers.sequence import Sequence


class CoreCache(CoreState):
    def seal(self, sequence: Sequence) -> None:
        """Names the contents of the blocks that are now full and believed: computed, or pulled and verified."""
        if not self.settings.prefix_cache:
            return
        for at in range(sequence.num_sealed, sequence.num_computed // self.settings.block_tokens):
            content = self._content(sequence, at)
            if content is None:
                return
            self.blocks.seal(sequence.blocks[at], content)
            sequence.num_sealed += 1

    def cached_prefix(self, sequence: Sequence) -> list[BlockId]:
        """Whole blocks, held or cached, with the sequence's first tokens: never its last one, and none beyond a head start's limit."""
        return list(self._found(sequence)) if self.settings.prefix_cache else []

    def start_from_cache(self, sequence: Sequence, unit: int = 1) -> int:
        """A sequence without blocks takes those of its cached prefix, cut to multiples of `unit` tokens; the tokens it need not compute."""
        if sequence.blocks or sequence.num_planned:
            return 0
        size = max(unit, self.settings.block_tokens)
        found = self.cached_prefix(sequence)
        tokens = len(found) * self.settings.block_tokens // size * size
        del found[tokens // self.settings.block_tokens :]
        self.blocks.share(found)
        sequence.reuse(found, tokens)
        self._note_cached(sequence, tokens)
        return tokens

    def _note_cached(self, sequence: Sequence, tokens: int) -> None:
        """What a request finds again of its own after a preemption is no news."""
        if sequence.num_cached is None:
            sequence.num_cached = min(tokens, sequence.num_prompt)
        if tokens:
            self.story(sequence.spec.request_id, "cached", tokens=tokens)

    def _found(self, sequence: Sequence) -> Iterator[BlockId]:
        size = self.settings.block_tokens
        last = sequence.num_tokens - 1 if sequence.limit is None else min(sequence.limit, sequence.num_tokens - 1)
        for at in range(last // size):
            content = self._content(sequence, at, known=True)
            number = None if content is None else self.blocks.find(content)
            if number is None:
                return
            yield number

    def root_of(self, sequence: Sequence) -> Content:
        """Only sequences of one tenant meet."""
        return self.blocks.root(self.settings.fingerprint, sequence.spec.salt)

    def _content(self, sequence: Sequence, at: int, *, known: bool = False) -> Content | None:
        """Of its block `at`; None if its hash collides, or, if it is to be `known`, if no other block can hold it."""
        contents, size = sequence.contents, self.settings.block_tokens
        if at < len(contents):
            return contents[at]
        parent = contents[-1] if contents else self.root_of(sequence)
        tokens = sequence.ids(at * size, (at + 1) * size).tobytes()
        content = self.blocks.known(parent, tokens) if known else self.blocks.name(parent, tokens)
        if content is not None:
            contents.append(content)
        return content
