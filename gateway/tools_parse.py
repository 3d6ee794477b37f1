"""Tool calls out of a model's text: a pure incremental fold, so that every gateway cuts the same text into the same pieces.

What has been said of a text depends on how the log cut it into entries and on nothing else. A text that only looks like a call stays
text. Between its braces a call is read as JSON with any whitespace, because only a grammar makes a model write exactly one form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from shared.grammar import CallFormat

MAX_NAME_CHARS = 256
"""A longer name is text."""
_SPACE = " \t\r\n"
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NAME_KEYS = ('"name"', '"tool"')
_ARGUMENT_KEYS = ('"arguments"', '"parameters"')


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """Call `index` of the answer begins."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    index: int


Piece = Content | CallStart | Arguments | CallEnd


class ToolParser:
    """One choice's text in, pieces out. Modes: `text`, `head` (perhaps a call), `arguments`, `behind` (a call's closing marks)."""

    def __init__(self, shape: CallFormat) -> None:
        self._tag = shape.begin.strip()
        self._end = shape.end.strip()
        self._mode = "text" if self._tag else "head"
        self._held = ""
        """Text that no piece has told yet."""
        self._calls = 0
        self._value = _Value()

    @property
    def calls(self) -> int:
        return self._calls

    def feed(self, text: str) -> list[Piece]:
        """The pieces that became certain."""
        self._held += text
        return _merged(self._read(last=False))

    def finish(self) -> list[Piece]:
        """The end of the choice: what was held back is told."""
        return _merged(self._read(last=True))

    def _read(self, *, last: bool) -> Iterator[Piece]:
        before = None
        while before != (self._mode, self._held):
            before = (self._mode, self._held)
            yield from {"text": self._text, "head": self._head, "arguments": self._arguments, "behind": self._behind}[self._mode](last)

    def _text(self, last: bool) -> Iterator[Piece]:
        at = self._held.find(self._tag) if self._tag else -1
        if at >= 0:
            yield from self._release(at)
            self._mode = "head"
        else:
            yield from self._release(len(self._held) - (0 if last or not self._tag else _overlap(self._held, self._tag)))

    def _head(self, last: bool) -> Iterator[Piece]:
        found = _read_head(self._held[len(self._tag) :])
        if found is None and not last:
            return
        if found is None or found.end < 0:
            yield from self._not_a_call()
            return
        self._held = self._held[len(self._tag) + found.end :]
        self._mode, self._value = "arguments", _Value()
        yield CallStart(self._calls, found.name)

    def _not_a_call(self) -> Iterator[Piece]:
        """The tag is text; without tags everything from here on is."""
        yield from self._release(len(self._tag) if self._tag else len(self._held))
        self._mode = "text"

    def _arguments(self, last: bool) -> Iterator[Piece]:
        text, done = self._value.take(self._held)
        self._held = self._held[self._value.taken :]
        if text:
            yield Arguments(self._calls, text)
        if done or last:
            yield CallEnd(self._calls)
            self._calls += 1
            self._mode = "behind"

    def _behind(self, last: bool) -> Iterator[Piece]:
        """Braces, end tag, separators and whitespace belong to the call; what follows is another call, or text."""
        rest = self._held.lstrip(_SPACE + "};")
        if self._end and rest.startswith(self._end):
            rest = rest[len(self._end) :].lstrip(_SPACE)
        elif self._end and not last and self._end.startswith(rest):
            return
        if not rest:
            self._held = "" if last else self._held
            return
        starts_call = rest.startswith(self._tag) if self._tag else rest.startswith("{")
        if self._tag and not starts_call and not last and self._tag.startswith(rest):
            return
        self._held, self._mode = rest, "head" if starts_call else "text"
        yield from ()

    def _release(self, size: int) -> Iterator[Piece]:
        if size > 0:
            yield Content(self._held[:size])
            self._held = self._held[size:]


class _Value:
    """One JSON value, character by character: an object, or a string that holds one (as some models write arguments)."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False
        self._string = ""
        self._is_string: bool | None = None
        self.taken = 0

    def take(self, text: str) -> tuple[str, bool]:
        """Arguments that are certain, and whether the value has ended; `taken` counts the characters read."""
        start = len(text) - len(text.lstrip(_SPACE)) if self._is_string is None else 0
        self.taken = start
        for at in range(start, len(text)):
            if self._is_string is None:
                self._is_string = text[at] == '"'
            self.taken = at + 1
            if self._ends_with(text[at]):
                return self._told(text[start : at + 1], done=True), True
        return self._told(text[start:], done=False), False

    def _ends_with(self, char: str) -> bool:
        if self._quoted:
            self._quoted = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
            return not self._quoted and self._depth == 0
        self._quoted = char == '"'
        self._depth += (char in "{[") - (char in "}]")
        return self._depth <= 0 and not self._quoted and char in "}]"

    def _told(self, text: str, *, done: bool) -> str:
        if not self._is_string:
            return text
        self._string += text
        try:
            return str(json.loads(self._string)) if done else ""
        except ValueError:
            return self._string


@dataclass(frozen=True, slots=True)
class _Head:
    """A call up to its arguments: `end` characters long, or no call at all (-1)."""

    name: str
    end: int


_NO_CALL = _Head("", -1)


def _read_head(text: str) -> _Head | None:
    """`{"name": NAME, "arguments": `; None while it may still become one."""
    at, name = 0, ""
    for expected in (("{",), _NAME_KEYS, (":",), None, (",",), _ARGUMENT_KEYS, (":",)):
        at += len(text[at:]) - len(text[at:].lstrip(_SPACE))
        step = _string_at(text, at) if expected is None else _literal_at(text, at, expected)
        if step is None or step < 0:
            return None if step is None else _NO_CALL
        name = _unquoted(text[at : at + step]) if expected is None else name
        at += step
    return _Head(name, at) if name else _NO_CALL


def _literal_at(text: str, at: int, options: tuple[str, ...]) -> int | None:
    """Length of the option that stands at `at`; None while one may; -1: none does."""
    for option in options:
        if text.startswith(option, at):
            return len(option)
    return None if any(option.startswith(text[at:]) for option in options) else -1


def _string_at(text: str, at: int) -> int | None:
    if match := _STRING.match(text, at):
        return match.end() - at
    return None if text[at : at + 1] in ('"', "") and len(text) - at <= MAX_NAME_CHARS else -1


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return ""


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is a proper head of `tag`."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)


def _merged(pieces: Iterator[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, Content) and isinstance(last, Content):
            merged[-1] = Content(last.text + piece.text)
        else:
            merged.append(piece)
    return merged
