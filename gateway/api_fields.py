"""The fields of request bodies: each a type with its bounds, so that the OpenAPI page says what is enforced.

No field is a union of shapes: a string where a list may stand is turned into the list first, so that errors point exactly.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic import WithJsonSchema as Schema
from pydantic_core import PydanticCustomError

from gateway import limits


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


def only(*neutral: object) -> AfterValidator:
    """Accepts null and the neutral values of a parameter that is not served."""

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


def as_user_message(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _prompts(value: object) -> list[str | list[int]]:
    """Every prompt: a text or its token ids. One prompt needs no list around it."""
    if isinstance(value, str) or (isinstance(value, list) and value and not any(isinstance(one, str | list) for one in value)):
        return [_prompt(value)]
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("prompt_type", "must be a non-empty text, a non-empty list of token ids, or a list of such prompts")
    if len(value) > limits.MAX_PROMPTS:
        raise PydanticCustomError("too_long", "at most {most} prompts fit in one request", {"most": limits.MAX_PROMPTS})
    return [_prompt(one) for one in value]


def _prompt(value: object) -> str | list[int]:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        return value
    raise PydanticCustomError("prompt_type", "each prompt must be a non-empty text, or a non-empty list of token ids")


def _text(value: str) -> str:
    if not value:
        raise PydanticCustomError("prompt_empty", "must not be empty: send at least one character")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise PydanticCustomError("string_unicode", "must be valid unicode: it holds half of a surrogate pair")
    return value


_IDS: dict[str, object] = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_TEXT: dict[str, object] = {"type": "string", "minLength": 1}
_MANY: list[dict[str, object]] = [{"type": "array", "minItems": 1, "maxItems": limits.MAX_PROMPTS, "items": one} for one in (_TEXT, _IDS)]

Flag = StrictBool | None
MetadataKey = Annotated[StrictStr, Field(max_length=limits.MAX_METADATA_KEY_CHARS)]
MetadataValue = Annotated[StrictStr, Field(max_length=limits.MAX_METADATA_VALUE_CHARS)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=limits.MAX_METADATA_PAIRS)] | None
User = Annotated[StrictStr, Field(max_length=limits.MAX_USER_CHARS)] | None
StopString = Annotated[StrictStr, Field(min_length=1, max_length=limits.MAX_STOP_CHARS)]
_STOP: dict[str, object] = {"type": "string", "minLength": 1, "maxLength": limits.MAX_STOP_CHARS}
Stop = (
    Annotated[
        list[StopString],
        Field(max_length=limits.MAX_STOP_STRINGS),
        BeforeValidator(_as_list),
        Schema({"anyOf": [_STOP, {"type": "array", "maxItems": limits.MAX_STOP_STRINGS, "items": _STOP}]}),
    ]
    | None
)
Tokens = Annotated[StrictInt, Field(ge=1, le=limits.MAX_TOKENS)] | None
MinTokens = Annotated[StrictInt, Field(ge=0, le=limits.MAX_TOKENS)] | None
Choices = Annotated[StrictInt, Field(ge=1, le=limits.MAX_CHOICES)] | None
Temperature = Annotated[StrictFloat, Field(ge=0.0, le=2.0, allow_inf_nan=False)] | None
TopP = Annotated[StrictFloat, Field(gt=0.0, le=1.0, allow_inf_nan=False)] | None
TopK = Annotated[StrictInt, Field(ge=-1, le=limits.MAX_TOP_K)] | None
MinP = Annotated[StrictFloat, Field(ge=0.0, le=1.0, allow_inf_nan=False)] | None
Penalty = Annotated[StrictFloat, Field(ge=-limits.MAX_PENALTY, le=limits.MAX_PENALTY, allow_inf_nan=False)] | None
Repetition = Annotated[StrictFloat, Field(gt=0.0, le=limits.MAX_REPETITION_PENALTY, allow_inf_nan=False)] | None
TopLogprobs = Annotated[StrictInt, Field(ge=0, le=limits.MAX_TOP_LOGPROBS)] | None
Seed = Annotated[StrictInt, Field(ge=0, le=limits.MAX_SEED)] | None
TokenKey = Annotated[StrictStr, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[StrictFloat, Field(ge=-limits.MAX_LOGIT_BIAS, le=limits.MAX_LOGIT_BIAS, allow_inf_nan=False)]
LogitBias = Annotated[dict[TokenKey, Bias], Field(max_length=limits.MAX_LOGIT_BIAS_TOKENS)] | None
Priority = Annotated[StrictInt, Field(ge=-limits.MAX_PRIORITY, le=limits.MAX_PRIORITY)] | None
ServiceTier = Literal["auto", "default", "flex", "priority"] | None
Timeout = Annotated[StrictFloat, Field(gt=0.0, le=limits.MAX_TIMEOUT_S, allow_inf_nan=False)] | None
TargetMs = Annotated[StrictFloat, Field(gt=0.0, le=limits.MAX_TARGET_MS, allow_inf_nan=False)] | None
ResponseId = Annotated[StrictStr, Field(min_length=1, max_length=limits.MAX_ID_CHARS)] | None
Ids = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(max_length=limits.MAX_DETOKENIZE)]
NonEmpty = Annotated[StrictStr, Field(min_length=1)]
Prompts = Annotated[object, AfterValidator(_prompts), Schema({"anyOf": [_TEXT, _IDS, *_MANY]})]


class TextPart(Shape):
    type: Literal["text", "input_text", "output_text"]
    text: StrictStr
    annotations: Annotated[object, only([])] = None
    logprobs: list[object] | None = None
    """Of an answer that is sent back: says nothing about the text."""


_PART: dict[str, object] = {"$ref": "#/components/schemas/TextPart"}
TextParts = Annotated[
    list[TextPart], BeforeValidator(_as_text_parts), Schema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]})
]
