"""`/v1/chat/completions` with tools: the same fold, with calls read out of the text."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.chat import ChatFold
from gateway.fold import ApiHead, Body, Json
from gateway.tools_fold import Call, ToolAnswer
from gateway.tools_parse import Arguments, CallStart, Content, Piece
from shared.fabric import LogHead
from shared.messages import LogTokens
from shared.types import FinishReason


class ToolChatFold(ChatFold):
    def __init__(self, head: LogHead, api: ApiHead) -> None:
        super().__init__(head, api)
        self._answers = [ToolAnswer(api.call_format, self.request_id, choice) for choice in range(head.spec.sampling.n)]

    def _tokens(self, entry: LogTokens, *, first: bool) -> Iterator[Body]:
        answer = self._answers[entry.choice]
        for piece in answer.feed(entry):
            if (delta := _delta_of(piece, answer.calls)) is not None:
                yield "", self._chunk([{"index": entry.choice, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _finished(self) -> Iterator[Body]:
        yield "", self._chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._reason(0, self.finish)}])
        if self.api.include_usage:
            yield "", {**self._chunk([]), "usage": self.usage()}

    def _reason(self, choice: int, finish: FinishReason) -> str:
        """A call that was cut is still told as cut."""
        return "tool_calls" if self._answers[choice].calls and finish is FinishReason.STOP else str(finish)

    def answer(self) -> Json:
        told = self._answers[0]
        message: Json = {"role": "assistant", "content": told.content or None, "refusal": None}
        if told.calls:
            message["tool_calls"] = [_whole(call) for call in told.calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(0, self.finish)}
        return {**super().answer(), "choices": [choice]}


def _delta_of(piece: Piece, calls: list[Call]) -> Json | None:
    match piece:
        case Content(text):
            return {"content": text}
        case CallStart(index, name):
            function: Json = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": calls[index].call_id, "type": "function", "function": function}]}
        case Arguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return None


def _whole(call: Call) -> Json:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
