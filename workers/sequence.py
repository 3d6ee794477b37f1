"""A sequence: tokens known, tokens computed, and the blocks their KV is in. Progress is one number, always a prefix."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shared.types import BlockId, RequestSpec, SamplingParams
from workers.engine import History, Int32
from workers.prefix_cache import Content


class Sequence:
    """`num_computed <= num_planned <= num_tokens + pending`.

    A head start has a `limit` to stop at and is never sampled; an owned sequence goes on to its end. Prefill, a chunk, decode
    and recomputation are all "`left` more tokens". `num_planned` runs ahead of `num_computed` by what launched steps do;
    `pending` counts tokens that they will sample.
    """

    def __init__(
        self, spec: RequestSpec, generated: tuple[int, ...], arrival: int, *, max_tokens: int, limit: int | None = None, choice: int = 0
    ) -> None:
        """`max_tokens` bounds prompt and output together: the model's length, or what sampling asks for."""
        self.spec = spec
        self.arrival = arrival
        self.limit = limit
        self.choice = choice
        """Which of the request's choices this is: it names the noise and the place in the log."""
        self.remembers = has_penalties(spec.sampling) or bool(spec.sampling.grammar)
        self.max_tokens = min(max_tokens, len(spec.prompt) + spec.sampling.max_tokens)
        self.num_prompt = len(spec.prompt)
        self._ids: Int32 = np.array(spec.prompt + generated, dtype=np.int32)
        self.num_tokens = len(self._ids)
        self.num_computed = 0
        self.num_planned = 0
        self.pending = 0
        self.run = 0
        """Rises when progress is taken back: what an earlier run still computes is not believed."""
        self.blocks: list[BlockId] = []
        self.num_sealed = 0
        """Leading blocks whose contents are named: full, computed, never written again."""
        self.contents: list[Content] = []
        """What leading full blocks of its tokens hold, whether it has such blocks or not: worked out once."""
        self.num_cached: int | None = None
        """Prompt tokens that its first start found in this worker's cache; None: not started yet."""
        self._table: Int32 = np.zeros(0, dtype=np.int32)
        self._table_of: tuple[list[BlockId], int] = (self.blocks, 0)

    @property
    def goal(self) -> int:
        """Position to compute up to, as far as is known now."""
        head = self.num_tokens + self.pending
        if self.limit is not None:
            return min(self.limit, head)
        return head if head < self.max_tokens else self.num_planned

    @property
    def left(self) -> int:
        # Asked for several times a step of every sequence.
        left = self.num_tokens + self.pending - self.num_planned
        if self.limit is None and left <= 1:
            return left if left > 0 and self.num_planned + left < self.max_tokens else 0
        return max(0, self.goal - self.num_planned)

    @property
    def num_generated(self) -> int:
        return self.num_tokens - self.num_prompt

    @property
    def samples_at(self) -> int:
        """The chunk that ends here samples the next token; a head start has no such end."""
        return -1 if self.limit is not None else self.num_tokens + self.pending

    def ids(self, start: int, stop: int) -> Int32:
        """Known token ids of positions `[start, stop)`, cut at `num_tokens`."""
        return self._ids[start : min(stop, self.num_tokens)]

    def table(self) -> Int32:
        """Its blocks as an array. Within a run blocks are only added to the list, so it is made anew as seldom as that happens."""
        blocks, run = self._table_of
        if len(self._table) != len(self.blocks) or blocks is not self.blocks or run != self.run:
            self._table, self._table_of = np.array(self.blocks, dtype=np.int32), (self.blocks, self.run)
        return self._table

    def history(self, pending: int) -> History | None:
        """For the penalties and the grammar of the token that comes next; `pending` says which sample is still unknown, -1 if none is."""
        return History(self._ids[: self.num_tokens], self.num_prompt, pending) if self.remembers else None

    def plan(self, count: int, *, sampled: bool) -> None:
        self.num_planned += count
        self.pending += sampled

    def computed(self, count: int) -> None:
        self.num_computed += count

    def append(self, token: int) -> None:
        """The oldest pending token became known."""
        self.pending -= 1
        if self.num_tokens == len(self._ids):
            self._grow(1)
        self._ids[self.num_tokens] = token
        self.num_tokens += 1

    def adopt(self, spec: RequestSpec, generated: tuple[int, ...], arrival: int, *, max_tokens: int, choice: int = 0) -> None:
        """A head start becomes its worker's own request: the same prefix, and no limit any more."""
        self.spec, self.arrival, self.limit, self.choice = spec, arrival, None, choice
        self.max_tokens = min(max_tokens, len(spec.prompt) + spec.sampling.max_tokens)
        self._ids = np.array(spec.prompt + generated, dtype=np.int32)
        self.num_tokens = len(self._ids)

    def fork_from(self, other: Sequence, blocks: int, block_tokens: int) -> None:
        """Starts behind the first full blocks of `other`, which both now have in their tables; a sequence without blocks only."""
        self.blocks, self.contents = other.blocks[:blocks], other.contents[:blocks]
        self.num_sealed = min(blocks, other.num_sealed)
        self.num_computed = self.num_planned = blocks * block_tokens

    def rewind(self, num_computed: int = 0) -> None:
        """Progress falls to `num_computed`; launched steps no longer count."""
        self.run += 1
        self.num_computed = self.num_planned = num_computed
        self.pending = 0

    def reuse(self, blocks: Iterable[BlockId], tokens: int) -> None:
        """Starts behind `tokens` that these blocks hold already; a sequence without blocks only."""
        self.blocks.extend(blocks)
        self.num_sealed = len(self.blocks)
        self.num_computed = self.num_planned = tokens

    def check(self, block_tokens: int) -> None:
        ordered = 0 <= self.num_computed <= self.num_planned <= self.num_tokens + self.pending
        roomy = self.num_planned <= len(self.blocks) * block_tokens
        bounded = self.limit is None or (self.num_planned <= self.limit and not self.pending)
        if not (ordered and roomy and bounded and self.num_sealed * block_tokens <= self.num_computed):
            raise AssertionError(f"{self!r} is no prefix in its blocks")

    def _grow(self, more: int) -> None:
        if self.num_tokens + more > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(max(64, len(self._ids) // 2), dtype=np.int32)])

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.spec.request_id}/{self.choice} tokens {self.num_tokens}+{self.pending} | computed {self.num_computed}"
            f" | planned {self.num_planned} | blocks {len(self.blocks)} | run {self.run}>"
        )


def has_penalties(params: SamplingParams) -> bool:
    """Whether a token's score depends on the tokens before it."""
    return bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1)
