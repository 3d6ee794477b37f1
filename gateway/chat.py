"""`/v1/chat/completions` as a fold of the log."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.chunks import ChunkFold
from gateway.fold import Body, Json
from shared.types import FinishReason


class ChatFold(ChunkFold):
    chunk_object = "chat.completion.chunk"

    def _open(self) -> Iterator[Body]:
        yield "", self._chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}])

    def _choice(self, text: str | None, finish: FinishReason | None) -> Json:
        delta: Json = {} if text is None else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    def answer(self) -> Json:
        message: Json = {"role": "assistant", "content": self.transcript.text, "refusal": None}
        return {
            "id": self.public_id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}],
            "usage": self.usage(),
            "metadata": self.api.echo.get("metadata"),
        }
