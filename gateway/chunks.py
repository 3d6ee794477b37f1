"""What chat completions and completions share: chunks, usage, errors in the middle of a stream."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator

from gateway.fold import Body, Choice, Fold, Json, error_object
from gateway.logprobs import TokenLogprob
from shared.messages import LogTokens
from shared.types import FinishReason


class ChunkFold(Fold):
    """A stream of equal-shaped chunks: a delta per entry with text, one with the finish reason per choice, then usage if asked for."""

    chunk_object: str

    @abstractmethod
    def _delta(self, index: int, text: str | None, finish: FinishReason | None, logprobs: Json | None) -> Json:
        """The chunk's one choice."""

    @abstractmethod
    def _told(self, tokens: Iterable[TokenLogprob]) -> Json:
        """Log probabilities in this API's shape."""

    def _tokens(self, entry: LogTokens, *, first: bool) -> Iterator[Body]:
        if entry.text:
            yield self._piece(entry.choice, entry.text, None)
        if entry.finish is not None:
            yield self._piece(entry.choice, None, entry.finish)

    def _finished(self) -> Iterator[Body]:
        for index, choice in enumerate(self.transcript.choices):
            if choice.finish is None:
                yield self._piece(index, None, FinishReason.STOP)
        if self.api.include_usage and self.api.parts == 1:
            yield self.usage_chunk(self.usage())

    def _fail(self, message: str, code: str) -> Iterator[Body]:
        yield "", error_object(message, "server_error", code)

    def usage_chunk(self, usage: Json) -> Body:
        """The last chunk of a stream that was asked to tell usage."""
        return "", {**self._chunk([]), "usage": usage}

    def usage(self) -> Json:
        transcript = self.transcript
        return usage_of(transcript.prompt_tokens, transcript.generated, transcript.cached_tokens)

    def first_index(self) -> int:
        """Choices are numbered prompt by prompt."""
        return self.api.part * len(self.transcript.choices)

    def _piece(self, index: int, text: str | None, finish: FinishReason | None) -> Body:
        logprobs = self.transcript.choices[index].logprobs
        told = None if logprobs is None else self._told(logprobs.news())
        return "", self._chunk([self._delta(self.first_index() + index, text, finish, told)])

    def _all_told(self, choice: Choice) -> Json | None:
        return None if choice.logprobs is None else self._told(choice.logprobs.tokens)

    def _chunk(self, choices: list[Json]) -> Json:
        chunk: Json = {"id": self.public_id, "object": self.chunk_object, "created": self.created, "model": self.model, "choices": choices}
        if "service_tier" in self.api.echo:
            chunk["service_tier"] = self.api.echo["service_tier"]
        if self.api.include_usage or self.api.continuous_usage:
            chunk["usage"] = self.usage() if self.api.continuous_usage else None
        return chunk


def usage_of(prompt: int, generated: int, cached: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
