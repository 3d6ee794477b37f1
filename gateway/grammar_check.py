"""Whether a grammar can be followed, before a request is accepted: with the library that the workers use, and without torch.

A compile works in fuel, not in time: the library's own limits and our bound on the text keep a hostile schema below a second of one
thread, and what has compiled once is remembered.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from gateway.tools_plan import Check, Form
from shared.errors import BadRequest
from shared.grammar import GrammarError, to_lark

MAX_GRAMMAR_CHARS = 65_536
"""Of everything that one answer must match, as JSON."""
REMEMBERED = 256
REMEDY = "simplify the schema (where 'strict' is false, keywords that cannot be enforced are ignored)"


class Constraint:
    """Whether answers of one model can be constrained, and by which grammars."""

    def __init__(self, tokenizer: Any, model_dir: Path) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer`."""
        self._source = tokenizer
        self._model_dir = model_dir
        self._good: OrderedDict[str, None] = OrderedDict()

    def check(self, form: Form, call_format: str) -> None:
        """Raises `BadRequest`. A first grammar takes a second, another one milliseconds: not for an event loop."""
        grammar, param = form.grammar(call_format), form.content_param if form.content else "tools"
        if grammar in self._good:
            return
        _need(len(grammar) <= MAX_GRAMMAR_CHARS, f"it is larger than {MAX_GRAMMAR_CHARS} characters", param)
        tokenizer = self._tokenizer
        if isinstance(tokenizer, str):
            raise BadRequest(f"'{param}' cannot be followed: {tokenizer}.", param, "unsupported_parameter")
        check_each(form.checks())
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(to_lark(grammar)), log_level=0)
        _need(not matcher.is_error(), _first_line(matcher.get_error()), param)
        self._remember(grammar)

    def _remember(self, grammar: str) -> None:
        self._good[grammar] = None
        while len(self._good) > REMEMBERED:
            self._good.popitem(last=False)

    @cached_property
    def _tokenizer(self) -> LLTokenizer | str:
        """Or why there is none."""
        if not _names_an_end(self._model_dir):
            return "the model names no end-of-sequence token"
        try:
            return LLTokenizer(self._source.to_str())
        except ValueError as error:
            return f"the model's tokenizer is of a kind that is not known ({error})"


def check_each(checks: Iterable[Check]) -> None:
    """Every schema by itself, so that the error names it. Raises `BadRequest`."""
    for check in checks:
        try:
            problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(to_lark(check.grammar)))
        except GrammarError as error:
            problem = str(error)
        _need(not problem or problem.startswith("WARNING"), _first_line(problem), check.param)


def _need(holds: bool, problem: str, param: str) -> None:
    if not holds:
        raise BadRequest(f"'{param}' cannot be followed: {problem}; {REMEDY}.", param, "invalid_schema")


def _names_an_end(model_dir: Path) -> bool:
    """As a worker reads it: `generation_config.json`, else `config.json`."""
    for name in ("generation_config.json", "config.json"):
        path = model_dir / name
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if any(one.get("eos_token_id") is not None for one in (config, config.get("text_config") or {})):
            return True
    return False


def _first_line(message: str) -> str:
    return message.strip().split("\n", 1)[0][:300]
