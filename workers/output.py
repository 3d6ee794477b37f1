"""The output stage: tokens become log entries, and only then is anybody told.

Pure part: `OutputBook` turns commands into appends and answers into events. `OutputStage` runs it on its own thread with its
own connection, so that neither a slow server nor detokenizing ever blocks a step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.clock import Clock
from shared.errors import FabricUnavailable
from shared.fabric import WriteStatus
from shared.messages import LogEnd, LogTokens
from shared.processes import event_loop
from shared.types import FinishReason, Phase, RequestId, RequestSpec
from workers.detokenizer import Detokenizer, SafeText
from workers.entry_joining import joined
from workers.events import Closed, Delivered, DropOutput, Emit, EndRequest, OpenOutput, StopFound, Superseded

log = logging.getLogger(__name__)

OutputCommand = OpenOutput | Emit | EndRequest | DropOutput
OutputEvent = StopFound | Superseded | Closed
Append = tuple[RequestId, int, tuple[LogTokens, ...], LogEnd | None]

RETRY_S = 0.2


@dataclass(slots=True)
class _Output:
    """One attempt's writing: what waits to be appended, and how its text goes on."""

    attempt: int
    texts: dict[int, SafeText]
    """Of the choices that have not ended."""
    counts: list[int]
    """Tokens of each choice, written down or delivered before."""
    waiting: list[LogTokens] = field(default_factory=list)
    end: LogEnd | None = None
    sent: Append | None = None
    """Sent and not answered: it is repeated as it was, because only an exact repeat is known to the log."""


class OutputBook:
    """Every attempt this worker writes for. No I/O: `take` gives what to append, `answered` what became of it."""

    def __init__(self, detokenizer: Detokenizer, clock: Clock) -> None:
        self._detokenizer = detokenizer
        self._clock = clock
        self._outputs: OrderedDict[RequestId, _Output] = OrderedDict()
        self._events: list[OutputEvent] = []

    def __repr__(self) -> str:
        return f"<OutputBook [{len(self._outputs)} open]>"

    def __len__(self) -> int:
        return len(self._outputs)

    def handle(self, command: OutputCommand) -> None:
        match command:
            case Emit():
                self._emit(command)
            case OpenOutput():
                self._outputs[command.spec.request_id] = _Output(command.attempt, *self._replay_all(command))
            case EndRequest():
                output = self._current(command.request_id, command.attempt)
                if output and output.end is None:
                    output.end = LogEnd(command.phase, command.error, command.code, at_ms=self._clock.wall_ms())
            case DropOutput():
                if self._current(command.request_id, command.attempt):
                    del self._outputs[command.request_id]

    def take(self) -> list[Append]:
        """One append per request that has something to say; an unanswered one again, unchanged."""
        appends: list[Append] = []
        for request_id, output in self._outputs.items():
            if output.sent is None and (output.waiting or output.end):
                output.waiting = joined(output.waiting)
                output.sent = (request_id, output.attempt, tuple(output.waiting), output.end)
            if output.sent:
                appends.append(output.sent)
        return appends

    def answered(self, append: Append, status: WriteStatus) -> bool:
        """What the log said to one append; True when the record is to be closed now."""
        request_id, attempt, tokens, end = append
        output = self._current(request_id, attempt)
        if output is None:
            return False
        if status is WriteStatus.DONE:
            output.sent = None if end is None else append
            del output.waiting[: len(tokens)]
            return end is not None
        if status is WriteStatus.ENDED:
            return True
        # A gap can only mean that the server lost what it had acknowledged: this attempt must not invent the rest.
        if status is WriteStatus.GAP:
            extra = {"request": request_id, "attempt": attempt}
            log.error("the log has a gap before this attempt's entry: the server lost acknowledged tokens", extra=extra)
        self._drop(request_id, Superseded(request_id, attempt))
        return False

    def closed(self, request_id: RequestId, attempt: int) -> None:
        if self._current(request_id, attempt):
            self._drop(request_id, Closed(request_id, attempt))

    def events(self) -> list[OutputEvent]:
        events, self._events = self._events, []
        return events

    def _drop(self, request_id: RequestId, event: OutputEvent) -> None:
        del self._outputs[request_id]
        self._events.append(event)

    def _current(self, request_id: RequestId, attempt: int) -> _Output | None:
        output = self._outputs.get(request_id)
        return output if output and output.attempt == attempt else None

    def _replay_all(self, command: OpenOutput) -> tuple[dict[int, SafeText], list[int]]:
        delivered = [*command.delivered, *[Delivered()] * (command.spec.sampling.n - len(command.delivered))]
        texts = {choice: self._replay(command.spec, known) for choice, known in enumerate(delivered) if not known.finish}
        return texts, [len(known.token_ids) for known in delivered]

    def _replay(self, spec: RequestSpec, known: Delivered) -> SafeText:
        text = SafeText(self._detokenizer.open(spec.prompt), spec.sampling.stop)
        for token_id in known.token_ids:
            text.push(token_id)
        return text

    def _emit(self, command: Emit) -> None:
        """A choice that has ended says nothing more."""
        output = self._current(command.request_id, command.attempt)
        text = output.texts.get(command.choice) if output else None
        if output is None or output.end is not None or text is None:
            return
        if not text.stops and command.finish is None and len(command.token_ids) == 1:
            self._append_token(output, command, text.step(command.token_ids[0]))
            return
        pieces: list[str] = []
        for offset, token_id in enumerate(command.token_ids):
            piece = text.push(token_id)
            pieces.append(piece.text)
            if piece.stopped:
                self._write_down(output, command, offset + 1, pieces, FinishReason.STOP)
                self._events.append(StopFound(command.request_id, command.attempt, command.choice, command.index + offset))
                return
        if command.finish is not None:
            pieces.append(text.finish().text)
        self._write_down(output, command, len(command.token_ids), pieces, command.finish)

    def _append_token(self, output: _Output, emit: Emit, text: str) -> None:
        """The common case, and the short way: one token that neither ends its choice nor could."""
        _, _, choice, index, token_ids, logprobs, _, top, cached = emit
        output.waiting.append(LogTokens(choice, index, token_ids, text, logprobs, None, self._clock.wall_ms(), top, cached))
        output.counts[choice] = index + 1

    def _write_down(self, output: _Output, emit: Emit, count: int, pieces: list[str], finish: FinishReason | None) -> None:
        _, _, choice, index, token_ids, logprobs, _, top, cached = emit
        now = self._clock.wall_ms()
        entry = LogTokens(choice, index, token_ids[:count], "".join(pieces), logprobs[:count], finish, now, top[:count], cached)
        output.waiting.append(entry)
        output.counts[choice] = index + count
        if finish is not None:
            del output.texts[choice]
            output.end = None if output.texts else LogEnd(Phase.FINISHED, at_ms=now, counts=tuple(output.counts))


class LogWriter(Protocol):
    """The part of the fabric that the output stage needs."""

    async def write(self, appends: Sequence[Append]) -> Sequence[WriteStatus]: ...

    async def close_many(self, ends: Sequence[tuple[RequestId, int, Phase]]) -> Sequence[WriteStatus]: ...

    async def disconnect(self) -> None: ...


class OutputStage:
    """Runs an `OutputBook` on a thread of its own. `put` from any thread; events come by `on_event` from that thread."""

    def __init__(self, book: OutputBook, connect: Callable[[], Awaitable[LogWriter]], on_event: Callable[[OutputEvent], None]) -> None:
        self._book = book
        self._connect = connect
        self._on_event = on_event
        self._inbox: list[OutputCommand] = []
        self._lock = threading.Lock()
        self._loop = event_loop()
        self._wake = asyncio.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="output", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, commands: Iterable[OutputCommand]) -> None:
        with self._lock:
            self._inbox.extend(commands)
        self._loop.call_soon_threadsafe(self._wake.set)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Writes what is waiting, if the server lets it, then ends the thread."""
        self._stopping = True
        self._loop.call_soon_threadsafe(self._wake.set)
        self._thread.join(timeout_s)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        writer = await self._connected()
        if writer is None:
            return
        try:
            while not (self._stopping and not self._inbox):
                await self._wake.wait()
                self._wake.clear()
                await self._write_all(writer)
        finally:
            await writer.disconnect()

    async def _connected(self) -> LogWriter | None:
        """However long it takes: a worker that cannot write is alive to everybody and answers nobody. None: stopped before."""
        while not self._stopping:
            try:
                return await self._connect()
            except FabricUnavailable as error:
                log.warning("the log cannot be reached yet: %s", error)
                await asyncio.sleep(RETRY_S)
        return None

    async def _write_all(self, writer: LogWriter) -> None:
        while True:
            self._read_inbox()
            appends = self._book.take()
            if not appends:
                return
            try:
                await self._write(writer, appends)
            except FabricUnavailable as error:
                if self._stopping:
                    return
                log.warning("the log cannot be written yet: %s", error)
                await asyncio.sleep(RETRY_S)
            self._tell()

    async def _write(self, writer: LogWriter, appends: list[Append]) -> None:
        statuses = await writer.write(appends)
        ended = [append for append, status in zip(appends, statuses, strict=True) if self._book.answered(append, status)]
        if ended:
            await writer.close_many([(request_id, attempt, end.phase if end else Phase.FINISHED) for request_id, attempt, _, end in ended])
        for request_id, attempt, _, _ in ended:
            self._book.closed(request_id, attempt)

    def _read_inbox(self) -> None:
        with self._lock:
            commands, self._inbox = self._inbox, []
        for command in commands:
            self._book.handle(command)
        self._tell()

    def _tell(self) -> None:
        for event in self._book.events():
            self._on_event(event)
