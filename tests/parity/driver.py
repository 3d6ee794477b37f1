"""A minimal server over one engine: it holds block tables, mixes chunks with decodes, and keeps what came out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.types import BlockId, TokenSpan
from workers.engine import Engine
from workers.step_plans import Piece, write_plan


@dataclass(eq=False)
class Served:
    """One request on one engine: `tokens` is the prompt and what was generated, `[0, computed)` of it is in the cache."""

    tokens: list[int]
    blocks: tuple[BlockId, ...]
    num_prompt: int
    computed: int = 0
    logprobs: list[float] = field(default_factory=list)

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.num_prompt :]


class Driver:
    """Runs requests to `count` greedy tokens each. Scattered requests hold blocks that are never neighbours."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.requests: list[Served] = []
        self._steps = 0
        self._next_block = 0

    def add(self, prompt: Sequence[int], count: int, *, scattered: bool = False) -> Served:
        needed = -(-(len(prompt) + count) // self.engine.block_tokens)
        stride = 2 if scattered else 1
        first, self._next_block = self._next_block, self._next_block + needed * stride
        assert self._next_block <= self.engine.total_blocks, "the test's cache is too small"
        order = range(first, first + needed * stride, stride)
        blocks = tuple(BlockId(block) for block in (reversed(order) if scattered else order))
        self.requests.append(Served(list(prompt), blocks, len(prompt)))
        return self.requests[-1]

    def run(self, count: int, chunks: Sequence[int]) -> None:
        """Steps until every request has `count` tokens; each takes its turns through `chunks` while it prefills."""
        turn = 0
        while unfinished := [request for request in self.requests if len(request.generated) < count]:
            pieces = [self._piece(request, chunks[(turn + i) % len(chunks)]) for i, request in enumerate(unfinished)]
            self._step(unfinished, sorted(range(len(pieces)), key=lambda i: len(pieces[i].tokens)), pieces)
            turn += 1

    def prefill(self, request: Served, stop: int, chunk: int) -> None:
        """Computes `request` alone up to `stop`, sampling nothing."""
        while request.computed < stop:
            end = min(stop, request.computed + chunk)
            piece = Piece(request.tokens[request.computed : end], request.computed, request.blocks)
            self.engine.launch(write_plan(self._steps, [piece], self.engine.block_tokens))
            assert self.engine.collect().token_ids == ()
            self._steps += 1
            request.computed = end

    def _piece(self, request: Served, chunk: int) -> Piece:
        stop = min(len(request.tokens), request.computed + chunk)
        last = [stop - request.computed - 1] if stop == len(request.tokens) else []
        return Piece(request.tokens[request.computed : stop], request.computed, request.blocks, last, index=len(request.generated))

    def _step(self, requests: list[Served], order: Iterable[int], pieces: list[Piece]) -> None:
        order = list(order)
        self.engine.launch(write_plan(self._steps, [pieces[i] for i in order], self.engine.block_tokens))
        result = self.engine.collect()
        assert result.step == self._steps
        self._steps += 1
        answers = iter(zip(result.token_ids, result.logprobs, strict=True))
        for i in order:
            requests[i].computed += len(pieces[i].tokens)
            if pieces[i].sampled:
                token, logprob = next(answers)
                requests[i].tokens.append(token)
                requests[i].logprobs.append(logprob)


def hand_over(source: Engine, given: Served, target: Engine, taken: Served, span: TokenSpan) -> None:
    """Moves the KV of `span` over the wire layout, as a transport would."""
    payload = memoryview(bytearray(len(span) * source.kv.bytes_per_token))
    source.gather(given.blocks, span, payload)
    target.scatter(taken.blocks, span, payload.toreadonly())
    taken.computed = span.stop
