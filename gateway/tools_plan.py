"""What a request asks of an answer's form, until the model is known that says how tool calls are written: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.response_format import ResponseFormat, TextOptions
from gateway.tools import NO_PARAMETERS, ChatTool, Function, ResponseTool, ToolChoice
from shared import grammar
from shared.errors import BadRequest
from shared.grammar import ToolRule

Json = dict[str, Any]
MAX_PARALLEL_CALLS = 16
"""Calls that one answer may hold under a grammar."""


@dataclass(frozen=True, slots=True)
class Check:
    """A grammar that must compile, and the parameter to name if it does not."""

    grammar: str
    param: str


@dataclass(frozen=True, slots=True)
class Form:
    """`response_format`, `tools` and what goes with them."""

    tools: tuple[Json, ...] = ()
    """In chat's shape, as templates take them: those that may be called."""
    rules: tuple[ToolRule, ...] = ()
    params: tuple[str, ...] = ()
    """Where the client sent each tool's parameters."""
    required: bool = False
    parallel: bool = True
    content: str = ""
    """Grammar of the text."""
    content_param: str = "response_format"

    @property
    def enforced(self) -> bool:
        """Whether tool calls are constrained, not only understood."""
        return bool(self.rules) and (self.required or bool(self.content) or any(rule.strict for rule in self.rules))

    def grammar(self, call_format: str) -> str:
        """What the worker shall follow; empty: anything."""
        if not self.enforced:
            return self.content
        calls = MAX_PARALLEL_CALLS if self.parallel and call_format != "llama3" else 1
        return grammar.tools(call_format, self.rules, calls=calls, required=self.required, content=self.content)

    def checks(self) -> Iterator[Check]:
        """Each schema by itself, so that an error names the right one."""
        if self.content:
            yield Check(self.content, self.content_param)
        if self.enforced:
            for rule, param in zip(self.rules, self.params, strict=True):
                yield Check(grammar.json_schema(rule.parameters, strict=rule.strict), param)


NO_FORM = Form()


def chat_form(
    tools: Sequence[ChatTool] | None, choice: ToolChoice | None, parallel: bool | None, response_format: ResponseFormat | None
) -> Form:
    """Raises `BadRequest`."""
    functions = [tool.function for tool in tools or ()]
    params = [f"tools[{at}].function.parameters" for at in range(len(functions))]
    content = response_format.grammar() if response_format else ""
    return _form(functions, params, choice, parallel, content, "response_format", strict=False)


def response_form(tools: Sequence[ResponseTool] | None, choice: ToolChoice | None, parallel: bool | None, text: TextOptions | None) -> Form:
    """Raises `BadRequest`."""
    params = [f"tools[{at}].parameters" for at in range(len(tools or ()))]
    content = text.format.grammar() if text and text.format else ""
    return _form(list(tools or ()), params, choice, parallel, content, "text.format", strict=True)


def echoed(tools: Sequence[ResponseTool] | None, choice: ToolChoice | None, text: TextOptions | None) -> Json:
    """What a response's object repeats, in the shapes that it was sent in."""
    sent: Json = {}
    if tools is not None:
        sent["tools"] = [{"strict": True, **tool.model_dump(exclude_none=True)} for tool in tools]
    if choice is not None:
        sent["tool_choice"] = {"type": "function", "name": choice.chosen} if choice.chosen else choice.type
    if text is not None and text.format is not None:
        sent["text"] = {"format": text.format.model_dump(by_alias=True, exclude_none=True)}
    return sent


def _form(
    functions: Sequence[Function],
    params: Sequence[str],
    choice: ToolChoice | None,
    parallel: bool | None,
    content: str,
    content_param: str,
    *,
    strict: bool,
) -> Form:
    """`strict`: what a tool is that does not say."""
    names = [function.name for function in functions]
    if len(set(names)) != len(names):
        raise BadRequest("'tools' has two functions of one name: give each its own.", "tools", "invalid_value")
    kind, chosen = (choice.type, choice.chosen) if choice else ("auto", None)
    if not functions and kind in ("required", "function"):
        message = "'tool_choice' asks for a call, but there are no 'tools': send them, or leave it out."
        raise BadRequest(message, "tool_choice", "invalid_value")
    if chosen is not None and chosen not in names:
        raise BadRequest(f"'tool_choice' names '{chosen}', which is none of 'tools'.", "tool_choice", "invalid_value")
    if kind == "none" or not functions:
        return Form(content=content, content_param=content_param)
    kept = [at for at, name in enumerate(names) if chosen in (None, name)]
    return Form(
        tools=tuple(_as_template_takes_it(functions[at]) for at in kept),
        rules=tuple(_rule(functions[at], strict=strict) for at in kept),
        params=tuple(params[at] for at in kept),
        required=kind in ("required", "function"),
        parallel=parallel is not False and chosen is None,
        content=content,
        content_param=content_param,
    )


def _rule(function: Function, *, strict: bool) -> ToolRule:
    asked = strict and function.parameters is not None if function.strict is None else function.strict
    return ToolRule(function.name, function.parameters if function.parameters is not None else NO_PARAMETERS, asked)


def _as_template_takes_it(function: Function) -> Json:
    described: Json = {"name": function.name, "description": function.description or "", "parameters": function.parameters or NO_PARAMETERS}
    return {"type": "function", "function": described}
