"""Who holds which beginnings of prompts in cache: the leader's own memory of who computed what.

No worker reports its cache. What a worker computed is known from its reports, and how much it can keep from its KV memory, so an
LRU of that size per worker is a fair guess of its cache at no cost on the wire. It is a hint: a worker looks for itself, and a
wrong guess costs the time of one prefill. A new leader starts with none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from shared.prefixes import PREFIX_BYTES, split_hashes
from shared.types import GRANULE_TOKENS, WorkerRef

MAX_GRANULES = 1 << 14
"""Remembered of one worker, at most: a million tokens."""


class PrefixMemory:
    """Per worker the hashes of prefixes (see `shared.prefixes`) that it should hold, least recently used first."""

    def __init__(self) -> None:
        self._of: dict[WorkerRef, OrderedDict[bytes, None]] = {}
        self._holders: dict[bytes, dict[WorkerRef, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def note(self, ref: WorkerRef, prefix: bytes, tokens: int, capacity_tokens: int) -> None:
        """`ref` has the KV of the first `tokens` of a prompt, and KV memory for `capacity_tokens`. Deep ends are forgotten first."""
        kept = self._of.setdefault(ref, OrderedDict())
        for name in reversed(split_hashes(prefix, tokens)):
            kept[name] = None
            kept.move_to_end(name)
            self._holders.setdefault(name, {})[ref] = None
        for _ in range(len(kept) - min(MAX_GRANULES, capacity_tokens // GRANULE_TOKENS)):
            self._let_go(ref, kept.popitem(last=False)[0])

    def forget(self, ref: WorkerRef) -> None:
        """That incarnation is gone, and its cache with it."""
        for name in self._of.pop(ref, ()):
            self._let_go(ref, name)

    def _let_go(self, ref: WorkerRef, name: bytes) -> None:
        holders = self._holders[name]
        del holders[ref]
        if not holders:
            del self._holders[name]

    # -- what policies see: `scheduler.view.Prefixes`

    def cached_tokens(self, ref: WorkerRef, prefix: bytes, num_tokens: int) -> int:
        """Tokens of this prompt that `ref` should not have to compute: whole granules, at most `num_tokens - 1`."""
        kept = self._of.get(ref)
        if not kept or not prefix:
            return 0
        names = split_hashes(prefix, num_tokens - 1)
        return next((at for at, name in enumerate(names) if name not in kept), len(names)) * GRANULE_TOKENS

    def holders(self, prefix: bytes, num_tokens: int) -> Iterator[WorkerRef]:
        """Who holds any of this prompt, the longest beginning first."""
        if prefix[:PREFIX_BYTES] not in self._holders:
            return
        seen: set[WorkerRef] = set()
        for name in reversed(split_hashes(prefix, num_tokens - 1)):
            for ref in self._holders.get(name, ()):
                if ref not in seen:
                    seen.add(ref)
                    yield ref

    def check(self) -> None:
        """Both directions agree. Raises `AssertionError`."""
        pairs = {(ref, name) for ref, kept in self._of.items() for name in kept}
        assert pairs == {(ref, name) for name, refs in self._holders.items() for ref in refs}, "prefixes and their holders disagree"

    def __repr__(self) -> str:
        return f"<PrefixMemory {len(self)} granules on {len(self._of)} workers>"
