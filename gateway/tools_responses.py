"""`/v1/responses` with tools: an output item per call, and one for each stretch of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.fold import ApiHead, Body, Json
from gateway.logprobs import TokenNames
from gateway.responses import ResponseFold
from gateway.tools_fold import Call, ToolAnswer
from gateway.tools_parse import Arguments, CallEnd, CallStart, Content, Piece
from shared.fabric import LogHead
from shared.messages import LogTokens
from shared.types import FinishReason


@dataclass(slots=True)
class Item:
    """An output item: a call, or text."""

    item_id: str
    call: Call | None = None
    pieces: list[str] = field(default_factory=list)
    ended: str = ""
    """The status it ended with."""

    def shown(self, status: str) -> Json:
        """`status` is of an item that is still open."""
        status = self.ended or status
        if self.call is not None:
            named: Json = {"call_id": self.call.call_id, "name": self.call.name, "arguments": self.call.text}
            return {"id": self.item_id, "type": "function_call", "status": status, **named}
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": [self.part()]}

    def part(self) -> Json:
        return {"type": "output_text", "text": "".join(self.pieces), "annotations": [], "logprobs": []}


class ToolResponseFold(ResponseFold):
    def __init__(self, head: LogHead, api: ApiHead, names: TokenNames) -> None:
        super().__init__(head, api, names)
        self.told = ToolAnswer(api.call_format, self.request_id, 0)
        self._items: list[Item] = []

    def _tokens(self, entry: LogTokens, *, first: bool) -> Iterator[Body]:
        if first:
            yield self._event("response.in_progress", response={**self.answer(), "output": []})
        for piece in self.told.feed(entry):
            yield from self._piece(piece)

    def _finished(self) -> Iterator[Body]:
        for piece in self.told.finish():
            yield from self._piece(piece)
        if not self._items:
            yield from self._open_text()
        yield from self._close()
        yield self._event(f"response.{self.status}", response=self.answer())

    def _piece(self, piece: Piece) -> Iterator[Body]:
        match piece:
            case Content(text):
                if self._text_item() is None:
                    yield from self._close()
                    yield from self._open_text()
                self._items[-1].pieces.append(text)
                yield self._event("response.output_text.delta", **self._at(), content_index=0, delta=text, logprobs=[])
            case CallStart(index, _):
                yield from self._close()
                call = self.told.calls[index]
                self._items.append(Item(f"fc_{call.call_id.removeprefix('call_')}", call))
                yield self._event(
                    "response.output_item.added", output_index=len(self._items) - 1, item=self._items[-1].shown("in_progress")
                )
            case Arguments(_, text):
                yield self._event("response.function_call_arguments.delta", **self._at(), delta=text)
            case CallEnd():
                yield from self._close()

    def _open_text(self) -> Iterator[Body]:
        number = sum(item.call is None for item in self._items)
        item = Item(f"msg_{self.request_id}" + (f"_{number}" if number else ""))
        self._items.append(item)
        yield self._event(
            "response.output_item.added", output_index=len(self._items) - 1, item={**item.shown("in_progress"), "content": []}
        )
        yield self._event("response.content_part.added", **self._at(), content_index=0, part=item.part())

    def _close(self) -> Iterator[Body]:
        """Ends the item that is open, if one is."""
        if not self._items or self._items[-1].ended:
            return
        item = self._items[-1]
        if item.call is None:
            part = item.part()
            yield self._event("response.output_text.done", **self._at(), content_index=0, text=part["text"], logprobs=[])
            yield self._event("response.content_part.done", **self._at(), content_index=0, part=part)
        else:
            yield self._event("response.function_call_arguments.done", **self._at(), name=item.call.name, arguments=item.call.text)
        item.ended = "incomplete" if self.transcript.finish is FinishReason.LENGTH else "completed"
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=item.shown(item.ended))

    def answer(self) -> Json:
        status = "in_progress" if self.transcript.end is None else "incomplete"
        return {**super().answer(), "output": [item.shown(status) for item in self._items]}

    def _last_shown(self) -> Json:
        return self._items[-1].shown("in_progress")

    def _text_item(self) -> Item | None:
        last = self._items[-1] if self._items else None
        return last if last is not None and last.call is None and not last.ended else None

    def _at(self) -> Json:
        return {"item_id": self._items[-1].item_id, "output_index": len(self._items) - 1}
