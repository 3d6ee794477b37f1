"""What clients may send: one pydantic model per POST, every field either served or refused by name.

A parameter that is not served is declared with `only(...)`: its neutral values pass, because they change nothing; any
other value is refused with a message that names it. A field that is not declared at all is refused as unknown.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictStr, field_validator, model_validator

from gateway import api_fields as fields
from gateway import limits
from gateway import tools as tool_types
from gateway.api_fields import Flag, Shape, TextParts, as_user_message, only
from gateway.response_format import ResponseFormat, TextOptions

__all__ = ["TextPart"]
TextPart = fields.TextPart


class StreamOptions(Shape):
    include_usage: Flag = None
    continuous_usage_stats: Flag = None
    """Usage in every chunk: what load generators ask for."""
    include_obfuscation: Annotated[object, only(False)] = None


class ResponseStreamOptions(Shape):
    include_usage: Flag = None
    """Of the older APIs, and sent here by load generators: a response's last event always tells usage."""
    include_obfuscation: Annotated[object, only(False)] = None


class Sampling(Shape):
    """What every POST that generates shares."""

    model: StrictStr
    temperature: fields.Temperature = None
    top_p: fields.TopP = None
    seed: fields.Seed = None
    stop: fields.Stop = None
    presence_penalty: fields.Penalty = None
    frequency_penalty: fields.Penalty = None
    logit_bias: fields.LogitBias = None
    stream: Flag = None
    user: fields.User = None
    safety_identifier: fields.User = None
    prompt_cache_key: fields.User = None
    metadata: fields.Metadata = None
    service_tier: fields.ServiceTier = None
    prompt_cache_retention: Annotated[object, only("in_memory")] = None
    prompt_cache_options: Annotated[object, only()] = None
    moderation: Annotated[object, only()] = None
    # Beyond OpenAI's, by the names that other servers gave them.
    top_k: fields.TopK = None
    min_p: fields.MinP = None
    repetition_penalty: fields.Repetition = None
    ignore_eos: Flag = None
    min_tokens: fields.MinTokens = None
    priority: fields.Priority = None
    # Ours.
    timeout_s: fields.Timeout = None
    ttft_target_ms: fields.TargetMs = None
    itl_target_ms: fields.TargetMs = None


class ChatMessage(Shape):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: tool_types.ToolCalls = None
    content: Annotated[TextParts | None, Field(validate_default=True)] = None
    refusal: Annotated[object, only()] = None
    annotations: Annotated[object, only([])] = None
    audio: Annotated[object, only()] = None
    tool_call_id: tool_types.CallId | None = None
    function_call: Annotated[object, only()] = None

    _said = field_validator("content")(tool_types.check_content)

    @model_validator(mode="after")
    def _complete(self) -> ChatMessage:
        tool_types.check_message(self.role, bool(self.tool_calls), self.tool_call_id is not None)
        return self


class ChunkSampling(Sampling):
    """What the two older APIs share."""

    n: fields.Choices = None
    max_tokens: fields.Tokens = None
    stream_options: StreamOptions | None = None


class ChatRequest(ChunkSampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=limits.MAX_MESSAGES)]
    max_completion_tokens: fields.Tokens = None
    store: Flag = None
    logprobs: Flag = None
    top_logprobs: fields.TopLogprobs = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[object, only(["text"])] = None
    tools: tool_types.ChatTools = None
    tool_choice: tool_types.Choice = None
    parallel_tool_calls: Flag = None
    functions: Annotated[object, only([])] = None
    function_call: Annotated[object, only("none", "auto")] = None
    audio: Annotated[object, only()] = None
    prediction: Annotated[object, only()] = None
    reasoning_effort: Annotated[object, only()] = None
    verbosity: Annotated[object, only()] = None
    web_search_options: Annotated[object, only()] = None


class CompletionRequest(ChunkSampling):
    """`POST /v1/completions`."""

    prompt: fields.Prompts
    echo: Flag = None
    logprobs: fields.TopLogprobs = None
    best_of: Annotated[object, only(1)] = None
    suffix: Annotated[object, only("")] = None


class InputItem(Shape):
    """A message of the conversation so far; an answer's output item can be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: TextParts | None = None
    type: Literal["message", "function_call", "function_call_output"] = "message"
    id: Annotated[StrictStr, Field(max_length=limits.MAX_ID_CHARS)] | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Annotated[object, only()] = None
    call_id: tool_types.CallId | None = None
    name: StrictStr | None = None
    arguments: StrictStr | None = None
    output: TextParts | None = None
    caller: Annotated[object, only()] = None
    namespace: Annotated[object, only()] = None
    async_: Annotated[object, only(False)] = None

    @model_validator(mode="after")
    def _complete(self) -> InputItem:
        tool_types.check_item(self.type, {name for name in tool_types.ITEM_FIELDS if getattr(self, name) is not None})
        return self


Input = Annotated[
    list[InputItem],
    BeforeValidator(as_user_message),
    Field(min_length=1, max_length=limits.MAX_MESSAGES),
    fields.Schema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "maxItems": limits.MAX_MESSAGES, "items": {"$ref": "#/components/schemas/InputItem"}},
            ]
        }
    ),
]


class ResponseRequest(Sampling):
    """`POST /v1/responses`."""

    input: Input
    instructions: StrictStr | None = None
    max_output_tokens: fields.Tokens = None
    background: Flag = None
    store: Flag = None
    stream_options: ResponseStreamOptions | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: fields.TopLogprobs = None
    previous_response_id: fields.ResponseId = None
    truncation: Literal["auto", "disabled"] | None = None
    parallel_tool_calls: Flag = None
    text: TextOptions | None = None
    tool_choice: tool_types.Choice = None
    tools: tool_types.ResponseTools = None
    conversation: Annotated[object, only()] = None
    max_tool_calls: Annotated[object, only()] = None
    prompt: Annotated[object, only()] = None
    reasoning: Annotated[object, only()] = None
    access_programs: Annotated[object, only()] = None
    context_management: Annotated[object, only([])] = None
    image: Annotated[object, only()] = None


class TokenizeRequest(Shape):
    """`POST /tokenize`: either `prompt` or `messages`."""

    model: StrictStr | None = None
    prompt: fields.NonEmpty | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=limits.MAX_MESSAGES)] | None = None
    add_special_tokens: Flag = None
    return_token_strs: Flag = None


class DetokenizeRequest(Shape):
    """`POST /detokenize`."""

    model: StrictStr | None = None
    tokens: fields.Ids
