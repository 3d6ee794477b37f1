"""From a validated body to what the gateway submits: pure."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.api_types import ChatMessage, ChatRequest, CompletionRequest, InputItem, ResponseRequest, Sampling, TextPart
from gateway.fold import ApiHead, Json, Kind
from gateway.limits import COMPLETION_DEFAULT_TOKENS
from gateway.tokenizer import Message
from shared.errors import BadRequest
from shared.types import SamplingParams

Prompt = list[Message] | str | tuple[int, ...]
"""Messages for the chat template, a text, or its token ids."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request before its prompt is tokens."""

    api: ApiHead
    model: str
    prompt: Prompt
    prompt_param: str
    """The JSON field that an error about the prompt names."""
    max_tokens: int | None
    """None: what the model's length leaves, up to the gateway's default."""
    max_tokens_param: str
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool

    def sampling(self, max_tokens: int, seed: int) -> SamplingParams:
        return SamplingParams(max_tokens, self.temperature, self.top_p, seed, self.stop, self.ignore_eos)


def ask_chat(body: ChatRequest) -> Ask:
    if body.max_tokens is not None and body.max_completion_tokens is not None and body.max_tokens != body.max_completion_tokens:
        raise BadRequest("'max_tokens' and 'max_completion_tokens' differ: send one of them.", "max_tokens", "invalid_value")
    param = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
    api = _chunk_head(Kind.CHAT, body, {"metadata": body.metadata})
    messages = [_message(one) for one in body.messages]
    return _ask(api, body, messages, "messages", body.max_tokens or body.max_completion_tokens, param)


def ask_completion(body: CompletionRequest) -> Ask:
    prompt = tuple(body.prompt) if isinstance(body.prompt, list) else str(body.prompt)
    api = _chunk_head(Kind.COMPLETION, body, {})
    return _ask(api, body, prompt, "prompt", body.max_tokens or COMPLETION_DEFAULT_TOKENS, "max_tokens")


def ask_response(body: ResponseRequest) -> Ask:
    messages = [_message(one) for one in body.input]
    if body.instructions is not None:
        messages.insert(0, {"role": "system", "content": body.instructions})
    api = ApiHead(Kind.RESPONSE, stream=bool(body.stream), background=bool(body.background), echo=_echo(body))
    return _ask(api, body, messages, "input", body.max_output_tokens, "max_output_tokens")


def _ask(api: ApiHead, body: Sampling, prompt: Prompt, prompt_param: str, max_tokens: int | None, max_tokens_param: str) -> Ask:
    return Ask(
        api,
        body.model,
        prompt,
        prompt_param,
        max_tokens,
        max_tokens_param,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=tuple(body.stop or ()),
        ignore_eos=bool(body.ignore_eos),
    )


def _chunk_head(kind: Kind, body: ChatRequest | CompletionRequest, echo: Json) -> ApiHead:
    options = body.stream_options
    if options is not None and not body.stream:
        raise BadRequest("'stream_options' is only for streams: send 'stream': true with it.", "stream_options", "invalid_value")
    usage, continuous = (bool(options.include_usage), bool(options.continuous_usage_stats)) if options else (False, False)
    return ApiHead(kind, stream=bool(body.stream), include_usage=usage, continuous_usage=continuous, echo=echo)


def _echo(body: ResponseRequest) -> Json:
    sent: Json = {
        "instructions": body.instructions,
        "metadata": body.metadata,
        "user": body.user,
        "store": body.store,
        "parallel_tool_calls": body.parallel_tool_calls,
        "tool_choice": body.tool_choice,
        "max_output_tokens": body.max_output_tokens,
    }
    unset = ("max_output_tokens",)
    return {name: value for name, value in sent.items() if value is not None or name in unset}


def _message(one: ChatMessage | InputItem) -> Message:
    return {"role": one.role, "content": _joined(one.content)}


def _joined(parts: list[TextPart]) -> str:
    return "".join(part.text for part in parts)
