"""`/v1/completions` as a fold of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.chunks import ChunkFold
from gateway.fold import Body, Choice, Json
from gateway.logprobs import TokenLogprob, legacy_logprobs
from shared.types import FinishReason


class CompletionFold(ChunkFold):
    chunk_object = "text_completion"

    def _open(self) -> Iterator[Body]:
        if not self.api.prefix:
            return
        for index in range(len(self.transcript.choices)):
            yield "", self._chunk([self._delta(self.first_index() + index, self.api.prefix, None, None)])

    def _told(self, tokens: Iterable[TokenLogprob]) -> Json:
        return legacy_logprobs(tokens, self.names)

    def _delta(self, index: int, text: str | None, finish: FinishReason | None, logprobs: Json | None) -> Json:
        return {"index": index, "text": text or "", "logprobs": logprobs, "finish_reason": finish}

    def choices(self) -> list[Json]:
        """The whole answer's, under the numbers that they have in it."""
        return [self._whole(self.first_index() + at, choice) for at, choice in enumerate(self.transcript.choices)]

    def _whole(self, index: int, choice: Choice) -> Json:
        return self._delta(index, self.api.prefix + choice.text, choice.finish or FinishReason.STOP, self._all_told(choice))

    def answer(self) -> Json:
        return {**self._chunk(self.choices()), "usage": self.usage()}
