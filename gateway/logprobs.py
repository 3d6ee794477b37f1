"""Log probabilities as the three APIs tell them.

A choice's tokens are all told, each exactly once in a stream: with the event that shows the text of their entry or, where an
entry releases no text (a token inside a character, a held-back stop string, the end of the sequence), with the next event of
that choice. So whether a client asks for them changes no event's number.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from shared.messages import LogTokens

Json = dict[str, object]
Ranked = tuple[tuple[int, float], ...]
"""`(token id, logprob)`, the likeliest first."""

LEAST = -9999.0
"""What stands for "impossible": JSON has no infinity. OpenAI's documented value."""


class TokenNames(Protocol):
    """The bytes that a token stands for."""

    def bytes_of(self, token_id: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    logprob: float
    top: Ranked
    offset: int
    """Characters of the choice's text before this token's own."""


class Logprobs:
    """One choice's tokens, in order; `shown` of them stand in events already."""

    def __init__(self, names: TokenNames, offset: int) -> None:
        self.tokens: list[TokenLogprob] = []
        self._names = names
        self._offset = offset
        self._shown = 0
        # A character may be spread over several tokens.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, entry: LogTokens) -> bool:
        """False where the entry does not say them all."""
        if len(entry.logprobs) != len(entry.token_ids) or len(entry.top_logprobs) not in (0, len(entry.token_ids)):
            return False
        ranked = entry.top_logprobs or ((),) * len(entry.token_ids)
        for token_id, logprob, top in zip(entry.token_ids, entry.logprobs, ranked, strict=True):
            self.tokens.append(TokenLogprob(token_id, logprob, top, self._offset))
            self._offset += len(self._decoder.decode(self._names.bytes_of(token_id)))
        return True

    def news(self) -> list[TokenLogprob]:
        """Those that no event has shown yet; they are shown now."""
        fresh, self._shown = self.tokens[self._shown :], len(self.tokens)
        return fresh


def chat_logprobs(tokens: Iterable[TokenLogprob], names: TokenNames) -> Json:
    """`choices[].logprobs` of a chat completion."""
    return {"content": content_logprobs(tokens, names), "refusal": None}


def content_logprobs(tokens: Iterable[TokenLogprob], names: TokenNames) -> list[Json]:
    """The list that chat completions and responses share."""
    return [{**_named(one.token_id, one.logprob, names), "top_logprobs": [_named(*pair, names) for pair in one.top]} for one in tokens]


def _named(token_id: int, logprob: float, names: TokenNames) -> Json:
    raw = names.bytes_of(token_id)
    return {"token": raw.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(raw)}


def legacy_logprobs(tokens: Iterable[TokenLogprob], names: TokenNames) -> Json:
    """`choices[].logprobs` of a completion: four lists of one length. The chosen token is always among its alternatives."""
    told = list(tokens)
    return {
        "tokens": [_legacy(one.token_id, names) for one in told],
        "token_logprobs": [_finite(one.logprob) for one in told],
        "top_logprobs": [{_legacy(at, names): _finite(value) for at, value in (*one.top, (one.token_id, one.logprob))} for one in told],
        "text_offset": [one.offset for one in told],
    }


def _legacy(token_id: int, names: TokenNames) -> str:
    """A key must tell tokens apart, also those that are parts of a character."""
    raw = names.bytes_of(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST else LEAST
