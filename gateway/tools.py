"""What clients send of tools: definitions, the choice among them, and earlier calls in messages; for both APIs."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, ValidationInfo, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

MAX_TOOLS = 128
MAX_TOOL_CALLS = 128
MAX_DESCRIPTION_CHARS = 16_384
Json = dict[str, Any]
Name = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Description = Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION_CHARS)] | None
NO_PARAMETERS: Json = {"type": "object", "properties": {}, "additionalProperties": False}
"""What a tool without `parameters` takes."""


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Function(Shape):
    """A tool of `/v1/chat/completions`, and the inner half of one."""

    name: Name
    description: Description = None
    parameters: Json | None = None
    strict: StrictBool | None = None


class ChatTool(Shape):
    type: Literal["function"]
    function: Function


class ResponseTool(Function):
    """A tool of `/v1/responses`: `strict` unless it says otherwise."""

    type: Literal["function"]
    defer_loading: Literal[False] | None = None


class NamedFunction(Shape):
    name: Name


class ToolChoice(Shape):
    """`none`, `auto`, `required`, or one function, as either API names it."""

    type: Literal["none", "auto", "required", "function"]
    function: NamedFunction | None = None
    name: Name | None = None

    @model_validator(mode="after")
    def _named(self) -> ToolChoice:
        if (self.type == "function") != (self.chosen is not None):
            raise PydanticCustomError("tool_choice", "'function' needs the name of one function, the other choices none")
        return self

    @property
    def chosen(self) -> str | None:
        return self.function.name if self.function else self.name


def _as_choice(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


_NAMED: Json = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"const": "function"}, "name": {"type": "string"}, "function": {"type": "object"}},
}
_CHOICE: Json = {"anyOf": [{"type": "string", "enum": ["none", "auto", "required"]}, _NAMED, {"type": "null"}]}
Choice = Annotated[ToolChoice, BeforeValidator(_as_choice), WithJsonSchema(_CHOICE)] | None
ChatTools = Annotated[list[ChatTool], Field(max_length=MAX_TOOLS)] | None
ResponseTools = Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None
CallId = Annotated[StrictStr, Field(min_length=1, max_length=256)]


class CalledFunction(Shape):
    name: StrictStr
    arguments: StrictStr


class ToolCall(Shape):
    """A call in an assistant's message, as an answer of ours held it."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


ToolCalls = Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS)] | None


def called(call_id: str, name: str, arguments: str) -> Json:
    """A call as chat templates take it: arguments as an object, where they are one."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = None
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": parsed if isinstance(parsed, dict) else arguments}}


def check_content(content: object, info: ValidationInfo) -> object:
    """An assistant that calls tools need not say anything. Raises pydantic's error."""
    if content is None and not info.data.get("tool_calls"):
        raise PydanticCustomError("missing", "Field required")
    return content


def check_message(role: str, calls: bool, answers: bool) -> None:
    """Which fields go together in a chat message. Raises pydantic's error."""
    if calls and role != "assistant":
        raise PydanticCustomError("message", "only an assistant's message has 'tool_calls'")
    if answers != (role == "tool"):
        raise PydanticCustomError("message", "'tool_call_id' is needed with role 'tool', and only there")


ITEM_FIELDS = ("role", "content", "call_id", "name", "arguments", "output")
_ITEMS = {
    "message": {"role", "content"},
    "function_call": {"call_id", "name", "arguments"},
    "function_call_output": {"call_id", "output"},
}


def check_item(kind: str, present: set[str]) -> None:
    """Which fields go together in an input item. Raises pydantic's error."""
    missing, foreign = _ITEMS[kind] - present, present - _ITEMS[kind] - {"name"}
    if missing or foreign:
        field = sorted(missing or foreign)[0]
        what = "is missing" if missing else "does not belong there"
        raise PydanticCustomError("item", "in an item of type '{kind}', '{field}' {what}", {"kind": kind, "field": field, "what": what})
