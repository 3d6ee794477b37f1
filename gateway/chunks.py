"""What chat completions and completions share: chunks, usage, errors in the middle of a stream."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from gateway.fold import Body, Fold, Json, error_object
from shared.messages import LogTokens
from shared.types import FinishReason


class ChunkFold(Fold):
    """A stream of equal-shaped chunks: a delta per entry with text, one with the finish reason, then usage if it was asked for."""

    chunk_object: str

    @abstractmethod
    def _choice(self, text: str | None, finish: FinishReason | None) -> Json:
        """The chunk's one choice."""

    def _tokens(self, entry: LogTokens, *, first: bool) -> Iterator[Body]:
        if entry.text:
            yield "", self._chunk([self._choice(entry.text, None)])

    def _finished(self) -> Iterator[Body]:
        yield "", self._chunk([self._choice(None, self.finish)])
        if self.api.include_usage:
            yield "", {**self._chunk([]), "usage": self.usage()}

    def _fail(self, message: str, code: str) -> Iterator[Body]:
        yield "", error_object(message, "server_error", code)

    @property
    def finish(self) -> FinishReason:
        return self.transcript.finish or FinishReason.STOP

    def usage(self) -> Json:
        prompt, generated = self.transcript.prompt_tokens, self.transcript.generated
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def _chunk(self, choices: list[Json]) -> Json:
        chunk: Json = {"id": self.public_id, "object": self.chunk_object, "created": self.created, "model": self.model, "choices": choices}
        if self.api.include_usage or self.api.continuous_usage:
            chunk["usage"] = self.usage() if self.api.continuous_usage else None
        return chunk
