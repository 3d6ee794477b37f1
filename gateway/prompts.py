"""From an ask's prompt to token ids that fit: the only place that says what is too long."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.asks import Ask, Prompt
from gateway.tokenizer import Encoder, Message
from shared.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a request may be: by the model, and by what the pool's largest worker holds."""

    model_tokens: int
    room_tokens: int
    """0: no worker is known yet, so only they can tell."""
    default_max_tokens: int

    @property
    def tokens(self) -> int:
        return min(self.model_tokens, self.room_tokens) if self.room_tokens else self.model_tokens

    @property
    def bound(self) -> str:
        if self.tokens == self.model_tokens:
            return f"the model's length is {self.model_tokens}"
        return f"the KV memory of this model's largest worker holds {self.tokens}"

    def max_tokens(self, ask: Ask, num_prompt: int, param: str) -> int:
        """Tokens that the request may generate. Raises `BadRequest` where prompt and output do not fit."""
        room = self.tokens - num_prompt
        if room < 1:
            message = f"'{param}' has {num_prompt} tokens; {self.bound}, output included: shorten it."
            raise BadRequest(message, param, "context_length_exceeded")
        asked = min(room, self.default_max_tokens) if ask.max_tokens is None else ask.max_tokens
        if asked > room:
            message = (
                f"'{ask.max_tokens_param}' is {asked}, but {self.bound}, and a prompt of {num_prompt} tokens leaves {room} of it: ask "
                f"for at most {room}, or shorten the prompt."
            )
            raise BadRequest(message, ask.max_tokens_param, "context_length_exceeded")
        if ask.sampling.min_tokens > asked:
            message = f"'min_tokens' is {ask.sampling.min_tokens}, but at most {asked} tokens can be generated: ask for at most {asked}."
            raise BadRequest(message, "min_tokens", "invalid_value")
        return asked


async def encode(ask: Ask, prompt: Prompt, param: str, encoder: Encoder, limits: Limits) -> tuple[int, ...]:
    """The prompt's token ids. Raises `BadRequest` for what cannot become tokens."""
    if isinstance(prompt, str):
        return await encoder.encode_text(prompt, param)
    if isinstance(prompt, list):
        return await _chat(ask, prompt, param, encoder, limits)
    for position, token in enumerate(prompt):
        if not 0 <= token < encoder.vocabulary:
            where = f"{param}[{position}]"
            raise BadRequest(f"'{where}' is {token}: token ids are 0 to {encoder.vocabulary - 1}.", where, "invalid_value")
    return prompt


def check_bias(ask: Ask, vocabulary: int) -> None:
    """Raises `BadRequest` for a bias of a token that the model does not have."""
    for token, _ in ask.sampling.logit_bias:
        if token >= vocabulary:
            raise BadRequest(f"'logit_bias' names token {token}: token ids are 0 to {vocabulary - 1}.", "logit_bias", "invalid_value")


async def _chat(ask: Ask, messages: list[Message], param: str, encoder: Encoder, limits: Limits) -> tuple[int, ...]:
    whole = await encoder.encode_chat(messages, param, ask.form.tools)
    room = limits.tokens - (ask.max_tokens or 1)
    if not ask.truncate or len(whole) <= room:
        return whole
    return await _truncated(ask, messages, param, encoder, room)


async def _truncated(ask: Ask, messages: list[Message], param: str, encoder: Encoder, room: int) -> tuple[int, ...]:
    """Instructions stay; of the rest what follows the earliest user's turn that fits, or the last one if none does."""
    lasting = [one for one in messages if one["role"] in ("system", "developer")]
    turns = [one for one in messages if one["role"] not in ("system", "developer")]
    starts = [at for at, one in enumerate(turns) if at and one["role"] == "user"] or [max(0, len(turns) - 1)]
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        fits = len(await encoder.encode_chat([*lasting, *turns[starts[middle] :]], param, ask.form.tools)) <= room
        low, high = (low, middle) if fits else (middle + 1, high)
    return await encoder.encode_chat([*lasting, *turns[starts[low] :]], param, ask.form.tools)
