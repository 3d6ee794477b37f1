"""Constrained decoding: from a choice's tokens to the bitmask of tokens that its grammar allows next.

The state of a grammar is a function of the tokens generated so far, and of nothing else: nothing of it travels. A state that is not
at hand (a moved, preempted or first step) is made from the tokens; the one of the step before is moved on by one token.

`llguidance` does the parsing. It imports without torch, so a gateway checks grammars with the same code; `docs/structured.md` has
the figures that chose it. It runs on one thread of its own beside the model's: masks are made while the forward runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from shared.errors import EngineError
from shared.grammar import GrammarError, to_lark
from workers.engine import Int32, Sample
from workers.grammar_binding import Previous, generated

COMPILED = 64
"""Grammars kept compiled."""
STATES = 512
"""States kept for the steps to come: more than sequences in a batch, so that steps in flight keep theirs."""


class Grammars:
    """One model's grammars. `bind` from the thread that launches steps; the work is done on a thread of its own."""

    def __init__(self, tokenizer_file: Path, eos_token_ids: Iterable[int]) -> None:
        self._file = tokenizer_file
        self._eos = sorted(eos_token_ids)
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._states: OrderedDict[tuple[str, bytes], list[LLMatcher]] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")

    def __repr__(self) -> str:
        return f"<Grammars [{len(self._compiled)} compiled | {len(self._states)} states]>"

    def bind(self, samples: Sequence[Sample], previous: Previous) -> Future[tuple[Sample, ...]] | None:
        """The samples with their `allowed` filled in, to come; None where no sample has a grammar. Fails with `EngineError`."""
        if not any(sample.params.grammar for sample in samples):
            return None
        return self._thread.submit(self._bind, samples, previous)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def allowed(self, grammar: str, generated: Int32) -> Int32:
        """[ceil(V / 32)]: bit `v % 32` of word `v // 32` says that token `v` may follow `generated`. Raises `EngineError`."""
        if len(generated) and generated[-1] in self._eos:
            return self._only_ends()
        state = self._state(grammar, generated)
        mask = state.compute_bitmask()
        if state.is_error():
            raise EngineError(f"the grammar cannot go on after {len(generated)} tokens: {_first_line(state.get_error())}")
        self._keep(grammar, generated, state)
        return np.frombuffer(mask, dtype=np.int32)

    def _only_ends(self) -> Int32:
        """Two steps deep, a step may run behind the end: what it samples is nobody's."""
        words = np.zeros(self._eos[-1] // 32 + 1, dtype=np.uint32)
        for token in self._eos:
            words[token // 32] |= np.uint32(1 << token % 32)
        return words.view(np.int32)

    def _bind(self, samples: Sequence[Sample], previous: Previous) -> tuple[Sample, ...]:
        return tuple(
            sample._replace(allowed=self.allowed(sample.params.grammar, generated(sample, previous))) if sample.params.grammar else sample
            for sample in samples
        )

    def _state(self, grammar: str, generated: Int32) -> LLMatcher:
        """The state after these tokens: the kept one before the last of them moved on, or a new one."""
        kept = self._states.get((grammar, generated[:-1].tobytes())) if len(generated) else None
        if not kept:
            return self._moved(self._start(grammar), generated)
        state = kept.pop()
        if not kept:
            del self._states[grammar, generated[:-1].tobytes()]
        return self._moved(state, generated[-1:])

    def _moved(self, state: LLMatcher, tokens: Int32) -> LLMatcher:
        if len(tokens) and not state.consume_tokens(tokens.tolist()):
            raise EngineError(f"the grammar does not allow what was generated: {_first_line(state.get_error())}")
        return state

    def _keep(self, grammar: str, generated: Int32, state: LLMatcher) -> None:
        """Two choices with the same tokens keep a state each: a state moves on with one of them."""
        self._states.setdefault((grammar, generated.tobytes()), []).append(state)
        self._states.move_to_end((grammar, generated.tobytes()))
        while len(self._states) > STATES:
            self._states.popitem(last=False)

    def _start(self, grammar: str) -> LLMatcher:
        compiled = self._compiled.pop(grammar, None) or self._compile(grammar)
        self._compiled[grammar] = compiled
        while len(self._compiled) > COMPILED:
            self._compiled.popitem(last=False)
        return compiled.deep_copy()

    def _compile(self, grammar: str) -> LLMatcher:
        try:
            text = to_lark(grammar)
        except GrammarError as error:
            raise EngineError(f"grammar: {error}") from error
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(text), log_level=0, limits=LLParserLimits(verbose_errors=False))
        if matcher.is_error():
            raise EngineError(f"the grammar does not compile: {_first_line(matcher.get_error())}")
        return matcher

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        """Made for the first grammar: a large vocabulary takes a second."""
        if not self._eos:
            raise EngineError("the model names no end-of-sequence token: an answer under a grammar could not end")
        try:
            plain = LLTokenizer(self._file.read_text(encoding="utf-8"), eos_token=self._eos)
        except (OSError, ValueError) as error:
            raise EngineError(f"{self._file.name} cannot be constrained by a grammar: {error}") from error
        return plain


def _first_line(message: str) -> str:
    return message.strip().split("\n", 1)[0]
