"""`/v1/completions` as a fold of the log."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.chunks import ChunkFold
from gateway.fold import Body, Json
from shared.types import FinishReason


class CompletionFold(ChunkFold):
    chunk_object = "text_completion"

    def _open(self) -> Iterator[Body]:
        return iter(())

    def _choice(self, text: str | None, finish: FinishReason | None) -> Json:
        return {"index": 0, "text": text or "", "logprobs": None, "finish_reason": finish}

    def answer(self) -> Json:
        return {**self._chunk([self._choice(self.transcript.text, self.finish)]), "usage": self.usage()}
