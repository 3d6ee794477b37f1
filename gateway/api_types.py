"""What clients may send: one pydantic model per POST, every field either served or refused by name.

A parameter that is not served yet is declared with `only(...)`: its neutral values pass, because they change nothing; any
other value is refused with a message that names it. A field that is not declared at all is refused as unknown.
No field is a union of shapes: a string where a list may stand is turned into the list first, so that errors point exactly.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from gateway import limits


def only(*neutral: object) -> AfterValidator:
    """Accepts null and the neutral values of a parameter that is not served yet."""

    def check(value: object) -> object:
        if value is None or any(type(value) is type(one) and value == one for one in neutral):
            return value
        shown = " or ".join([*map(repr, neutral), "null"])
        raise PydanticCustomError(
            "unsupported_parameter", "this parameter is not supported: leave it out or send {shown}", {"shown": shown}
        )

    return AfterValidator(check)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_text_parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_user_message(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _prompt(value: object) -> str | list[int]:
    """One prompt: a text, or its token ids; a list around a single prompt is taken off."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        return value
    if isinstance(value, list) and len(value) > 1 and all(isinstance(one, str | list) for one in value):
        raise PydanticCustomError("unsupported_parameter", "several prompts in one request are not supported: send one request per prompt")
    raise PydanticCustomError("prompt_type", "must be one non-empty text, or a non-empty list of token ids")


def _text(value: str) -> str:
    if not value:
        raise PydanticCustomError("prompt_empty", "must not be empty")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise PydanticCustomError("string_unicode", "must be valid unicode: it holds half of a surrogate pair")
    return value


def _short_pairs(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if len(key) > limits.MAX_METADATA_KEY_CHARS or len(text) > limits.MAX_METADATA_VALUE_CHARS:
            raise PydanticCustomError(
                "metadata_length",
                "keys have at most {keys} characters, values at most {values}",
                {"keys": limits.MAX_METADATA_KEY_CHARS, "values": limits.MAX_METADATA_VALUE_CHARS},
            )
    return value


StopString = Annotated[StrictStr, Field(min_length=1, max_length=limits.MAX_STOP_CHARS)]
Stop = Annotated[Annotated[list[StopString], Field(max_length=limits.MAX_STOP_STRINGS)] | None, BeforeValidator(_as_list)]
Tokens = Annotated[StrictInt, Field(ge=1)] | None
Temperature = Annotated[StrictFloat, Field(ge=0.0, le=2.0, allow_inf_nan=False)] | None
TopP = Annotated[StrictFloat, Field(gt=0.0, le=1.0, allow_inf_nan=False)] | None
Seed = Annotated[StrictInt, Field(ge=0, le=limits.MAX_SEED)] | None
Pairs = Annotated[dict[StrictStr, StrictStr], Field(max_length=limits.MAX_METADATA_PAIRS), AfterValidator(_short_pairs)]
Metadata = Pairs | None
User = Annotated[StrictStr, Field(max_length=limits.MAX_USER_CHARS)] | None
Flag = StrictBool | None
Prompt = Annotated[
    object, AfterValidator(_prompt), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]})
]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(Shape):
    include_usage: Flag = None
    continuous_usage_stats: Flag = None
    """Usage in every chunk: what load generators ask for."""
    include_obfuscation: Annotated[object, only(False)] = None


class Sampling(Shape):
    """What every POST shares."""

    model: StrictStr
    temperature: Temperature = None
    top_p: TopP = None
    seed: Seed = None
    stop: Stop = None
    ignore_eos: Flag = None
    """Our extension, as other servers': go on after the end-of-sequence token."""
    stream: Flag = None
    user: User = None
    metadata: Metadata = None


class TextPart(Shape):
    type: Literal["text", "input_text", "output_text"]
    text: StrictStr
    annotations: Annotated[object, only([])] = None
    logprobs: Annotated[object, only([])] = None


TextParts = Annotated[list[TextPart], BeforeValidator(_as_text_parts), WithJsonSchema({"type": ["string", "array"]})]


class ChatMessage(Shape):
    role: Literal["system", "developer", "user", "assistant"]
    content: TextParts
    refusal: Annotated[object, only()] = None
    annotations: Annotated[object, only([])] = None
    audio: Annotated[object, only()] = None
    tool_calls: Annotated[object, only([])] = None
    function_call: Annotated[object, only()] = None


class _Penalties(Sampling):
    n: Annotated[object, only(1)] = None
    presence_penalty: Annotated[object, only(0, 0.0)] = None
    frequency_penalty: Annotated[object, only(0, 0.0)] = None
    logit_bias: Annotated[object, only({})] = None
    max_tokens: Tokens = None
    stream_options: StreamOptions | None = None


class ChatRequest(_Penalties):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=limits.MAX_MESSAGES)]
    max_completion_tokens: Tokens = None
    store: Flag = None
    logprobs: Annotated[object, only(False)] = None
    top_logprobs: Annotated[object, only(0)] = None
    response_format: Annotated[object, only({"type": "text"})] = None
    modalities: Annotated[object, only(["text"])] = None
    service_tier: Annotated[object, only("auto", "default")] = None
    tools: Annotated[object, only([])] = None
    tool_choice: Annotated[object, only("none", "auto")] = None
    parallel_tool_calls: Annotated[object, only(True, False)] = None


class CompletionRequest(_Penalties):
    """`POST /v1/completions`."""

    prompt: Prompt
    best_of: Annotated[object, only(1)] = None
    echo: Annotated[object, only(False)] = None
    suffix: Annotated[object, only("")] = None
    logprobs: Annotated[object, only()] = None


class InputItem(Shape):
    """A message of the conversation so far; an answer's output item can be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: TextParts
    type: Literal["message"] = "message"
    id: StrictStr | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Annotated[object, only()] = None


class ResponseRequest(Sampling):
    """`POST /v1/responses`."""

    input: Annotated[
        list[InputItem],
        BeforeValidator(_as_user_message),
        Field(min_length=1, max_length=limits.MAX_MESSAGES),
        WithJsonSchema({"type": ["string", "array"]}),
    ]
    instructions: StrictStr | None = None
    max_output_tokens: Tokens = None
    background: Flag = None
    store: Flag = None
    stream_options: StreamOptions | None = None
    include: Annotated[object, only([])] = None
    parallel_tool_calls: Annotated[object, only(True, False)] = None
    presence_penalty: Annotated[object, only(0, 0.0)] = None
    frequency_penalty: Annotated[object, only(0, 0.0)] = None
    previous_response_id: Annotated[object, only()] = None
    reasoning: Annotated[object, only()] = None
    service_tier: Annotated[object, only("auto", "default")] = None
    text: Annotated[object, only({"format": {"type": "text"}})] = None
    tool_choice: Annotated[object, only("none", "auto")] = None
    tools: Annotated[object, only([])] = None
    top_logprobs: Annotated[object, only(0)] = None
    truncation: Annotated[object, only("disabled")] = None
