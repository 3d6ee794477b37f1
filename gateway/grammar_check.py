"""Whether a grammar can be followed, before a request is accepted: with the library that the workers use, and without torch.

Its parser works in fuel, not in time, and its limits are the library's own: a hostile schema is refused after tens of milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from gateway.tools_plan import Check, Form
from shared.errors import BadRequest
from shared.grammar import GrammarError, to_lark

MAX_GRAMMAR_CHARS = 200_000
"""Of one schema, as JSON."""
REMEDY = "send a schema without it, or take 'strict' out to have it ignored"


def check_grammars(checks: Iterable[Check]) -> None:
    """Raises `BadRequest` that names the parameter. Takes milliseconds: not for an event loop."""
    for check in checks:
        if len(check.grammar) > MAX_GRAMMAR_CHARS:
            message = f"'{check.param}' is larger than {MAX_GRAMMAR_CHARS} characters: send a smaller schema."
            raise BadRequest(message, check.param, "invalid_value")
        try:
            problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(to_lark(check.grammar)))
        except GrammarError as error:
            problem = str(error)
        if problem and not problem.startswith("WARNING"):
            raise BadRequest(f"'{check.param}' cannot be followed: {_first_line(problem)}; {REMEDY}.", check.param, "invalid_schema")


class Constraint:
    """Whether answers of one model can be constrained: found out when it is first asked."""

    def __init__(self, tokenizer: Any, model_dir: Path) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer`."""
        self._tokenizer = tokenizer
        self._model_dir = model_dir

    def check(self, form: Form) -> None:
        """Raises `BadRequest`. Not for an event loop."""
        param = form.content_param if form.content else "tools"
        if self._hindrance:
            raise BadRequest(f"'{param}' cannot be followed by this model: {self._hindrance}.", param, "unsupported_parameter")
        check_grammars(form.checks())

    @cached_property
    def _hindrance(self) -> str:
        return can_constrain(self._tokenizer.to_str(), self._model_dir)


def can_constrain(tokenizer_json: str, model_dir: Path) -> str:
    """Why answers of this model cannot be constrained; empty: they can."""
    if not _names_an_end(model_dir):
        return "it names no end-of-sequence token"
    try:
        LLTokenizer(tokenizer_json)
    except ValueError as error:
        return f"its tokenizer is of a kind that is not known ({error})"
    return ""


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
