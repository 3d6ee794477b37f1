"""From a validated body to what the gateway submits: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from gateway.api_types import ChatRequest, ChunkSampling, CompletionRequest, ResponseRequest, Sampling
from gateway.fold import ApiHead, Json, Kind
from gateway.limits import COMPLETION_DEFAULT_TOKENS, MAX_CHOICES
from gateway.tokenizer import Message
from gateway.tools_messages import chat_message, input_messages, stored_item
from gateway.tools_plan import NO_FORM, Form, chat_form, echoed, response_form
from shared.errors import BadRequest
from shared.types import SamplingParams

Prompt = list[Message] | str | tuple[int, ...]
"""Messages for the chat template, a text, or its token ids."""

PRIORITIES = {"flex": 10, "auto": 0, "default": 0, "priority": -10}
"""What a service tier means in the pool's order; lower is sooner."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request before its prompts are tokens."""

    api: ApiHead
    model: str
    prompts: tuple[Prompt, ...]
    prompt_param: str
    """The JSON field that an error about the prompt names."""
    max_tokens: int | None
    """None: what the model's length leaves, up to the gateway's default."""
    max_tokens_param: str
    sampling: SamplingParams
    """But for `max_tokens` and `seed`."""
    seed: int | None
    priority: int = 0
    timeout_s: float = 0.0
    ttft_target_s: float = 0.0
    itl_target_s: float = 0.0
    """0: the pool's."""
    truncate: bool = False
    """Messages that do not fit are left out, the oldest first."""
    echo: bool = False
    """The answer starts with its prompt's text."""
    form: Form = NO_FORM


def ask_chat(body: ChatRequest) -> Ask:
    if body.max_tokens is not None and body.max_completion_tokens is not None and body.max_tokens != body.max_completion_tokens:
        raise BadRequest("'max_tokens' and 'max_completion_tokens' differ: send one of them.", "max_tokens", "invalid_value")
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("'top_logprobs' needs 'logprobs': send 'logprobs': true with it.", "top_logprobs", "invalid_value")
    param = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
    echo: Json = {"metadata": body.metadata, **({"service_tier": _tier(body)} if body.service_tier else {})}
    api = replace(_chunk_head(Kind.CHAT, body, echo), logprobs=bool(body.logprobs))
    messages = [chat_message(one) for one in body.messages]
    form = chat_form(body.tools, body.tool_choice, body.parallel_tool_calls, body.response_format)
    asked = _ask(api, body, (messages,), "messages", body.max_tokens or body.max_completion_tokens, param)
    return replace(asked, sampling=replace(asked.sampling, n=body.n or 1, top_logprobs=body.top_logprobs or 0), form=form)


def ask_completion(body: CompletionRequest) -> Ask:
    prompts = tuple(tuple(one) if isinstance(one, list) else one for one in cast("list[str | list[int]]", body.prompt))
    if len(prompts) * (body.n or 1) > MAX_CHOICES:
        message = (
            f"{len(prompts)} prompts with 'n' of {body.n} make more than {MAX_CHOICES} choices: ask for fewer, or send several requests."
        )
        raise BadRequest(message, "n", "invalid_value")
    if body.echo and body.logprobs is not None:
        message = "'echo' with 'logprobs' is not supported: the prompt's log probabilities are not kept. Leave one of them out."
        raise BadRequest(message, "logprobs", "unsupported_parameter")
    api = replace(_chunk_head(Kind.COMPLETION, body, {}), logprobs=body.logprobs is not None, parts=len(prompts))
    asked = _ask(api, body, prompts, "prompt", body.max_tokens or COMPLETION_DEFAULT_TOKENS, "max_tokens")
    sampling = replace(asked.sampling, n=body.n or 1, top_logprobs=body.logprobs or 0)
    return replace(asked, sampling=sampling, echo=bool(body.echo))


def ask_response(body: ResponseRequest, before: Sequence[Message] = (), previous: str = "") -> Ask:
    """`before`: the conversation that the response continues, whose last response is `previous`."""
    if body.top_logprobs and not body.include:
        message = "'top_logprobs' needs 'include': send 'include': ['message.output_text.logprobs'] with it."
        raise BadRequest(message, "top_logprobs", "invalid_value")
    messages = [*before, *input_messages(body.input)]
    form = response_form(body.tools, body.tool_choice, body.parallel_tool_calls, body.text)
    if body.instructions is not None:
        messages.insert(0, {"role": "system", "content": body.instructions})
    stored = body.store is not False
    api = ApiHead(
        Kind.RESPONSE,
        stream=bool(body.stream),
        background=bool(body.background),
        echo=_echo(body),
        logprobs=bool(body.include),
        items=tuple(stored_item(one) for one in body.input) if stored or body.background else (),
        previous=previous,
        stored=stored,
    )
    asked = _ask(api, body, (messages,), "input", body.max_output_tokens, "max_output_tokens")
    sampling = replace(asked.sampling, top_logprobs=body.top_logprobs or 0)
    return replace(asked, sampling=sampling, truncate=body.truncation == "auto", form=form)


def _ask(
    api: ApiHead, body: Sampling, prompts: tuple[Prompt, ...], prompt_param: str, max_tokens: int | None, max_tokens_param: str
) -> Ask:
    if body.min_tokens and max_tokens and body.min_tokens > max_tokens:
        message = f"'min_tokens' is {body.min_tokens}, more than '{max_tokens_param}' of {max_tokens}: ask for fewer."
        raise BadRequest(message, "min_tokens", "invalid_value")
    return Ask(
        api,
        body.model,
        prompts,
        prompt_param,
        max_tokens,
        max_tokens_param,
        sampling=_sampling(body),
        seed=body.seed,
        priority=_priority(body),
        timeout_s=body.timeout_s or 0.0,
        ttft_target_s=(body.ttft_target_ms or 0.0) / 1000,
        itl_target_s=(body.itl_target_ms or 0.0) / 1000,
    )


def _sampling(body: Sampling) -> SamplingParams:
    return SamplingParams(
        max_tokens=0,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=tuple(body.stop or ()),
        ignore_eos=bool(body.ignore_eos),
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=tuple(sorted((int(token), bias) for token, bias in (body.logit_bias or {}).items())),
        min_tokens=body.min_tokens or 0,
    )


def _priority(body: Sampling) -> int:
    if body.priority is None:
        return PRIORITIES[_tier(body)]
    if body.service_tier not in (None, "auto"):
        raise BadRequest("'priority' and 'service_tier' both say how soon: send one of them.", "priority", "invalid_value")
    return body.priority


def _tier(body: Sampling) -> str:
    return "default" if body.service_tier in (None, "auto") else str(body.service_tier)


def _chunk_head(kind: Kind, body: ChunkSampling, echo: Json) -> ApiHead:
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
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "store": body.store,
        "parallel_tool_calls": body.parallel_tool_calls,
        **echoed(body.tools, body.tool_choice, body.text),
        "truncation": body.truncation,
        "service_tier": _tier(body),
        "max_output_tokens": body.max_output_tokens,
    }
    unset = ("max_output_tokens",)
    return {name: value for name, value in sent.items() if value is not None or name in unset}
