"""A sequence: tokens known, tokens computed, and the blocks their KV is in. Progress is one number, always a prefix."""

from __future__ import annotations

import numpy as np

from shared.types import BlockId, RequestSpec
from workers.engine import Int32


class Sequence:
    """`num_computed <= num_planned <= num_tokens + pending`.

    A head start has a `limit` to stop at and is never sampled; an owned sequence goes on to its end. Prefill, a chunk, decode
    and recomputation are all "`left` more tokens". `num_planned` runs ahead of `num_computed` by what launched steps do;
    `pending` counts tokens that they will sample.
    """

    def __init__(self, spec: RequestSpec, generated: tuple[int, ...], arrival: int, *, max_tokens: int, limit: int | None = None) -> None:
        """`max_tokens` bounds prompt and output together: the model's length, or what sampling asks for."""
        self.spec = spec
        self.arrival = arrival
        self.limit = limit
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
        self.keys: list[bytes] = []
        """Content hashes of the leading full blocks."""

    @property
    def goal(self) -> int:
        """Position to compute up to, as far as is known now."""
        head = self.num_tokens + self.pending
        if self.limit is not None:
            return min(self.limit, head)
        return head if head < self.max_tokens else self.num_planned

    @property
    def left(self) -> int:
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

    def plan(self, count: int, *, sampled: bool) -> None:
        self.num_planned += count
        self.pending += sampled

    def computed(self, count: int) -> None:
        self.num_computed += count

    def append(self, token: int) -> None:
        """The oldest pending token became known."""
        self.pending -= 1
        self._grow(1)
        self._ids[self.num_tokens] = token
        self.num_tokens += 1

    def adopt(self, spec: RequestSpec, generated: tuple[int, ...], arrival: int, *, max_tokens: int) -> None:
        """A head start becomes its worker's own request: the same prefix, and no limit any more."""
        self.spec, self.arrival, self.limit = spec, arrival, None
        self.max_tokens = min(max_tokens, len(spec.prompt) + spec.sampling.max_tokens)
        self._ids = np.array(spec.prompt + generated, dtype=np.int32)
        self.num_tokens = len(self._ids)

    def rewind(self, num_computed: int = 0) -> None:
        """Progress falls to `num_computed`; launched steps no longer count."""
        self.run += 1
        self.num_computed = self.num_planned = num_computed
        self.pending = 0

    def check(self, block_tokens: int) -> None:
        ordered = 0 <= self.num_computed <= self.num_planned <= self.num_tokens + self.pending
        roomy = self.num_planned <= len(self.blocks) * block_tokens
        bounded = self.limit is None or (self.num_planned <= self.limit and not self.pending)
        if not (ordered and roomy and bounded and len(self.keys) <= len(self.blocks)):
            raise AssertionError(f"{self!r} is no prefix in its blocks")

    def _grow(self, more: int) -> None:
        if self.num_tokens + more > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(max(64, len(self._ids) // 2), dtype=np.int32)])

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.spec.request_id} tokens {self.num_tokens}+{self.pending} | computed {self.num_computed}"
            f" | planned {self.num_planned} | blocks {len(self.blocks)} | run {self.run}>"
        )
