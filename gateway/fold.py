"""What a client gets is a pure fold of the request's log from its start.

Head and entries go in, numbered events come out. A number depends on what the log says and on nothing else (not on who reads it,
when, or in batches of what size), so that any gateway gives the same numbers and any gateway can resume any stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from json import dumps, loads
from typing import NamedTuple

from gateway.logprobs import Logprobs, TokenNames
from shared.errors import FabricError
from shared.fabric import LogHead
from shared.messages import LogEnd, LogEntry, LogTokens
from shared.types import FinishReason, Phase, RequestId

Json = dict[str, object]


class LogLost(FabricError):
    """The log no longer holds what was delivered, or the request is gone: the stream ends, never with a second version."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def shortened(request_id: RequestId) -> LogLost:
    return LogLost(f"The server lost tokens of request {request_id} that were already delivered; submit it again.", "log_shortened")


def vanished(request_id: RequestId) -> LogLost:
    return LogLost(f"The server lost request {request_id} before it ended; submit it again.", "request_lost")


def unreadable(request_id: RequestId) -> LogLost:
    return LogLost(f"The log of request {request_id} was written by a version that this gateway does not understand.", "log_unreadable")


class Kind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    RESPONSE = "response"

    @property
    def prefix(self) -> str:
        """What the public id starts with."""
        return {Kind.CHAT: "chatcmpl-", Kind.COMPLETION: "cmpl-", Kind.RESPONSE: "resp_"}[self]


@dataclass(frozen=True, slots=True)
class ApiHead:
    """`LogHead.api`: what the fold needs beside the request's spec, so that any gateway builds the same answer."""

    kind: Kind
    stream: bool = False
    background: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    echo: Json = field(default_factory=dict)
    """Parameters that the answer repeats."""
    logprobs: bool = False
    """Each token's log probability is told; how many alternatives with it, the sampling says."""
    prefix: str = ""
    """Text that stands before every choice's own: the prompt that a completion echoes."""
    parts: int = 1
    """Requests that make up one answer: a completion of several prompts has one request for each."""
    part: int = 0
    bundle: str = ""
    """The id of part 0, in the other parts."""
    items: tuple[Json, ...] = ()
    """What a stored response was asked, as its input items."""
    previous: str = ""
    """Bare id of the response that a response continues."""
    stored: bool = True
    call_format: str = ""
    """How the model writes the tool calls that are to be read out of its text; empty: none are."""

    def to_json(self) -> str:
        return dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ApiHead:
        """Fields of a later version are left out: their answers differ in what this one cannot say anyway."""
        read = loads(text)
        known = {one.name: read[one.name] for one in fields(cls) if one.name in read}
        return cls(**{**known, "kind": Kind(read["kind"]), "items": tuple(read.get("items", ()))})


class Event(NamedTuple):
    """One event of a stream. `data` carries `sequence_number` too; `name` is the SSE event name, if the API has one."""

    number: int
    data: Json
    name: str = ""


Body = tuple[str, Json]
"""`(name, data)` of an event that has no number yet."""


@dataclass(slots=True)
class Choice:
    """One of a request's `n` answers, as far as the log tells it."""

    pieces: list[str] = field(default_factory=list)
    generated: int = 0
    finish: FinishReason | None = None
    logprobs: Logprobs | None = None
    """Kept only for clients that asked for them."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class Transcript:
    """A request as far as the log tells it."""

    request_id: RequestId
    prompt_tokens: int
    choices: list[Choice]
    cached_tokens: int = 0
    """Prompt tokens that the first owner found in its cache: what the first entry says."""
    started: bool = False
    end: LogEnd | None = None

    @property
    def text(self) -> str:
        """Of choice 0."""
        return self.choices[0].text

    @property
    def finish(self) -> FinishReason | None:
        """Of choice 0."""
        return self.choices[0].finish

    @property
    def generated(self) -> int:
        """Tokens of all choices."""
        return sum(choice.generated for choice in self.choices)

    def add(self, entry: LogEntry) -> None:
        """Raises `LogLost` where the entry does not continue what came before."""
        if isinstance(entry, LogEnd):
            self.end = entry
            return
        if not 0 <= entry.choice < len(self.choices):
            raise unreadable(self.request_id)
        choice = self.choices[entry.choice]
        if entry.index != choice.generated:
            raise shortened(self.request_id)
        if choice.logprobs is not None and not choice.logprobs.add(entry):
            raise unreadable(self.request_id)
        if not self.started:
            self.started, self.cached_tokens = True, min(entry.cached_tokens, self.prompt_tokens)
        choice.generated += len(entry.token_ids)
        choice.finish = entry.finish or choice.finish
        if entry.text:
            choice.pieces.append(entry.text)


class Fold(ABC):
    """The common half of the three APIs' folds: numbering, and the order opening, tokens, end."""

    def __init__(self, head: LogHead, api: ApiHead, names: TokenNames) -> None:
        self.head = head
        self.api = api
        self.names = names
        self.request_id = head.spec.request_id
        self.public_id = api.kind.prefix + (api.bundle or head.spec.request_id)
        self.created = head.spec.created_ms // 1000
        self.model = head.spec.model
        choices = [Choice(logprobs=Logprobs(names, len(api.prefix)) if api.logprobs else None) for _ in range(head.spec.sampling.n)]
        self.transcript = Transcript(head.spec.request_id, len(head.spec.prompt), choices)
        self.next_number = 0

    def __repr__(self) -> str:
        end = self.transcript.end
        return f"<{type(self).__name__} {self.public_id} [{self.transcript.generated} tokens | {end.phase if end else 'open'}]>"

    @property
    def ended(self) -> bool:
        return self.transcript.end is not None

    @property
    def end(self) -> LogEnd | None:
        return self.transcript.end

    @property
    def request_ids(self) -> tuple[RequestId, ...]:
        """Whose logs this answer is told by."""
        return (self.request_id,)

    def opening(self) -> list[Event]:
        """What the head alone says."""
        return self._numbered(self._open())

    def feed(self, entry: LogEntry) -> list[Event]:
        """The events of the log's next entry. After the first end there are none: it wins."""
        if self.ended:
            return []
        before = self.transcript.started
        self.transcript.add(entry)
        if isinstance(entry, LogTokens):
            return self._numbered(self._tokens(entry, first=not before))
        return self._numbered(self._end(entry))

    def feed_all(self, entries: Iterable[LogEntry]) -> list[Event]:
        return [event for entry in entries for event in self.feed(entry)]

    def broken(self, error: LogLost) -> list[Event]:
        """How a stream ends whose log can no longer be believed. Not of the log, so no later reader sees it."""
        return self._numbered(self._fail(str(error), error.code))

    @abstractmethod
    def answer(self) -> Json:
        """The object that a polling or non-streaming client gets now."""

    @abstractmethod
    def _open(self) -> Iterator[Body]: ...

    @abstractmethod
    def _tokens(self, entry: LogTokens, *, first: bool) -> Iterator[Body]: ...

    @abstractmethod
    def _finished(self) -> Iterator[Body]: ...

    @abstractmethod
    def _fail(self, message: str, code: str) -> Iterator[Body]: ...

    def _cancelled(self) -> Iterator[Body]:
        return self._fail("The request was cancelled.", "request_cancelled")

    def _end(self, end: LogEnd) -> Iterator[Body]:
        if end.phase is Phase.FINISHED:
            return self._finished()
        if end.phase is Phase.CANCELLED:
            return self._cancelled()
        return self._fail(end.error or "The request failed.", end.code or "request_failed")

    def _numbered(self, bodies: Iterator[Body]) -> list[Event]:
        events = []
        for name, data in bodies:
            number = self.next_number
            events.append(Event(number, {**data, "sequence_number": number}, name))
            self.next_number = number + 1
        return events


def error_object(message: str, kind: str, code: str | None, param: str | None = None) -> Json:
    """The OpenAI error shape: one for every route and for errors in the middle of a stream."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
