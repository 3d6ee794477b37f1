"""What both APIs make of the pieces of an answer with tools: calls with their ids, and the text between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from gateway.tools_parse import Arguments, CallStart, Content, Piece, ToolParser
from shared.grammar import CALL_FORMATS
from shared.messages import LogTokens
from shared.types import RequestId


@dataclass(slots=True)
class Call:
    """One tool call as far as it is told."""

    name: str
    call_id: str
    arguments: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.arguments)


class ToolAnswer:
    """One choice's pieces, and what they add up to."""

    def __init__(self, call_format: str, request_id: RequestId, choice: int) -> None:
        self._parser = ToolParser(CALL_FORMATS[call_format])
        self._name = f"{request_id}/{choice}"
        self._content: list[str] = []
        self._open = True
        self.calls: list[Call] = []

    @property
    def content(self) -> str:
        return "".join(self._content)

    def feed(self, entry: LogTokens) -> Iterator[Piece]:
        yield from self._told(self._parser.feed(entry.text))
        if entry.finish is not None:
            yield from self.finish()

    def finish(self) -> Iterator[Piece]:
        if self._open:
            self._open = False
            yield from self._told(self._parser.finish())

    def _told(self, pieces: list[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            match piece:
                case Content(text):
                    if not text.strip() and not self._content:
                        continue
                    self._content.append(text)
                case CallStart(index, name):
                    self.calls.append(Call(name, f"call_{self._digest(index)}"))
                case Arguments(index, text):
                    self.calls[index].arguments.append(text)
            yield piece

    def _digest(self, index: int) -> str:
        """Of request, choice and index: every gateway gives a call the same id."""
        return blake2b(f"{self._name}/{index}".encode(), digest_size=12).hexdigest()
