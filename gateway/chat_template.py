"""A model's chat template, rendered as `transformers` 5 renders it, without importing it.

Templates come with model weights from strangers, so they run in jinja2's sandbox and see plain strings only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from gateway.tools_prompt import Json, call_format_of, in_words


class ChatTemplate:
    """One compiled template. Raises jinja2's `TemplateError` where it does not compile."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._template = _environment().from_string(source)
        self.call_format = call_format_of(source)
        """How its model was trained to write tool calls."""
        self._special_tokens = dict(special_tokens)
        self._knows_developers = "developer" in source

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Json] = (), *, call_format: str = "") -> str:
        """The conversation as text, special tokens included, up to where the assistant is to speak. Raises what the template raises.

        `tools` go to the template, or into words of our own where calls are written in our generic format. The role "developer" is
        OpenAI's newer name of "system": a template that never mentions it gets the older one.
        """
        told = [dict(message) if self._knows_developers else _with_older_role(message) for message in messages]
        if (call_format or self.call_format) == "generic":
            told, tools = in_words(told, tools), ()
        # Templates ask both `is defined` and `is none`: what is absent is passed as None, as their authors tried it.
        given = [*tools] or None
        return self._template.render(messages=told, tools=given, documents=None, add_generation_prompt=True, **self._special_tokens)


def _with_older_role(message: Mapping[str, Any]) -> Json:
    return {**message, "role": "system"} if message["role"] == "developer" else dict(message)


class GenerationBlock(Extension):
    """`{% generation %}` marks what the assistant said, for training; here its body is rendered and no more."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class PlainNamespace(Namespace):
    """A namespace without underscore names: with `__class__` among them it could pass for something else."""

    def __init__(self, /, *given: Any, **values: Any) -> None:
        Namespace.__init__(self)
        for name, value in dict(*given, **values).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"the template may not set {name!r} on a namespace")
        super().__setitem__(name, value)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now, "namespace": PlainNamespace}
    return environment


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    """jinja2's own escapes HTML, which a model has not been trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    """The local time: templates tell the model what day it is for its operator."""
    return datetime.now().strftime(pattern)
