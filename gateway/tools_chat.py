"""`/v1/chat/completions` with tools: the same fold, with calls read out of the text."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.chat import ChatFold
from gateway.fold import ApiHead, Body, Choice, Json
from gateway.logprobs import TokenNames
from gateway.tools_fold import Call, ToolAnswer
from gateway.tools_parse import Arguments, CallStart, Content, Piece
from shared.fabric import LogHead
from shared.messages import LogTokens
from shared.types import FinishReason


class ToolChatFold(ChatFold):
    def __init__(self, head: LogHead, api: ApiHead, names: TokenNames) -> None:
        super().__init__(head, api, names)
        self._answers = [ToolAnswer(api.call_format, self.request_id, choice) for choice in range(head.spec.sampling.n)]

    def _tokens(self, entry: LogTokens, *, first: bool) -> Iterator[Body]:
        answer = self._answers[entry.choice]
        for piece in answer.feed(entry):
            if (delta := _delta_of(piece, answer.calls)) is not None:
                yield "", self._chunk([self._change(entry.choice, delta, None)])
        if entry.finish is not None:
            reason = self._reason(entry.choice, entry.finish)
            yield "", self._chunk([self._change(entry.choice, {}, reason)])

    def _change(self, choice: int, delta: Json, reason: str | None) -> Json:
        """With the log probabilities that no chunk has told yet; those of calls among them."""
        logprobs = self.transcript.choices[choice].logprobs
        told = None if logprobs is None else self._told(logprobs.news())
        return {"index": choice, "delta": delta, "logprobs": told, "finish_reason": reason}

    def _reason(self, choice: int, finish: FinishReason) -> str:
        """A call that was cut is still told as cut."""
        return "tool_calls" if self._answers[choice].calls and finish is FinishReason.STOP else str(finish)

    def _whole(self, index: int, choice: Choice) -> Json:
        told = self._answers[index]
        message: Json = {"role": "assistant", "content": told.content or None, "refusal": None}
        if told.calls:
            message["tool_calls"] = [_whole_call(call) for call in told.calls]
        reason = self._reason(index, choice.finish or FinishReason.STOP)
        return {"index": index, "message": message, "logprobs": self._all_told(choice), "finish_reason": reason}


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


def _whole_call(call: Call) -> Json:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
