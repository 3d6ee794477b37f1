"""`/v1/chat/completions` as a fold of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.chunks import ChunkFold
from gateway.fold import Body, Choice, Json
from gateway.logprobs import TokenLogprob, chat_logprobs
from shared.types import FinishReason


class ChatFold(ChunkFold):
    chunk_object = "chat.completion.chunk"

    def _open(self) -> Iterator[Body]:
        for index in range(len(self.transcript.choices)):
            opening: Json = {"role": "assistant", "content": ""}
            yield "", self._chunk([{"index": index, "delta": opening, "logprobs": None, "finish_reason": None}])

    def _told(self, tokens: Iterable[TokenLogprob]) -> Json:
        return chat_logprobs(tokens, self.names)

    def _delta(self, index: int, text: str | None, finish: FinishReason | None, logprobs: Json | None) -> Json:
        delta: Json = {} if text is None else {"content": text}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def answer(self) -> Json:
        choices = [self._whole(index, choice) for index, choice in enumerate(self.transcript.choices)]
        answer: Json = {"id": self.public_id, "object": "chat.completion", "created": self.created, "model": self.model}
        return {**answer, "choices": choices, "usage": self.usage(), **self.api.echo}

    def _whole(self, index: int, choice: Choice) -> Json:
        message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
        finish = choice.finish or FinishReason.STOP
        return {"index": index, "message": message, "logprobs": self._all_told(choice), "finish_reason": finish}
