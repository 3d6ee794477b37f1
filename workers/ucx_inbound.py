"""Receiving from one incarnation of a sender.

Nothing is posted ahead: the link looks at each message as it arrives, knows its tag and its length, and only then receives it,
to where it belongs or to nowhere. So a transfer given up before its bytes come holds no memory, a message of the wrong
length never touches any, and what comes late, twice or for nobody is refused, which lets its sender go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shared.errors import TransportError
from shared.types import TransferId
from workers.staging import Region
from workers.transport import TransferHeader
from workers.ucx_binding import OK, Operation, describe
from workers.ucx_link import Link
from workers.ucx_wire import HEADER_PART, MAX_FRAME_BYTES, segment, segments, split_tag, unpack_frame

_NOWHERE = memoryview(b"")


@dataclass(eq=False, slots=True)
class Expected:
    """A transfer that its receiver has announced."""

    transfer: TransferId
    region: Region
    nbytes: int
    started: float
    deadline: float
    frame: memoryview | None = None
    header: TransferHeader | None = None
    parts: dict[int, Operation] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """The header is known and every byte has landed."""
        return self.header is not None and len(self.parts) == segments(self.nbytes) + 1 and all(map(_landed, self.parts.values()))


@dataclass(frozen=True, slots=True)
class Ended:
    """An expected transfer that is over: whole, or with the reason why not."""

    expected: Expected
    error: str


class Inbound:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.expected: dict[TransferId, Expected] = {}

    @property
    def address(self) -> bytes:
        return self.link.worker.address

    def expect(self, expected: Expected) -> None:
        if expected.transfer in self.expected:
            raise TransportError(f"transfer {expected.transfer} is already under way")
        self.expected[expected.transfer] = expected

    def give_up(self, transfer: TransferId, reason: str) -> list[Ended]:
        expected = self.expected.pop(transfer, None)
        return [] if expected is None else [Ended(expected, reason)]

    @property
    def busy(self) -> bool:
        return bool(self.expected)

    def visit(self, now: float) -> list[Ended]:
        """Moves bytes, takes what has come, and answers which transfers are over."""
        self.link.burst()
        refused = list(self._take_all())
        self.link.land()
        return [*refused, *self._finish(), *self._expire(now)]

    def _take_all(self) -> Iterator[Ended]:
        while (message := self.link.worker.probe()) is not None:
            yield from self._take(*message)

    def _take(self, tag: int, length: int) -> Iterator[Ended]:
        """Receives this message to where it belongs, or refuses it."""
        transfer, part = split_tag(tag)
        expected = self.expected.get(transfer)
        if expected is None or part in expected.parts:
            self.link.watch(self.link.worker.receive(tag, _NOWHERE))
            return
        error = _misfit(expected, part, length)
        if error:
            self.link.watch(self.link.worker.receive(tag, _NOWHERE))
            yield from self.give_up(transfer, error)
            return
        expected.parts[part] = self._receive(expected, tag, part, length)

    def _receive(self, expected: Expected, tag: int, part: int, length: int) -> Operation:
        if part == HEADER_PART:
            expected.frame = memoryview(bytearray(length))
            return self.link.watch(self.link.worker.receive(tag, expected.frame))
        into = expected.region.view[segment(part, expected.nbytes)]
        return self.link.watch(self.link.worker.receive(tag, into), expected.region)

    def _finish(self) -> Iterator[Ended]:
        for expected in list(self.expected.values()):
            error = _failure(expected)
            if error or expected.whole:
                del self.expected[expected.transfer]
                yield Ended(expected, error)

    def _expire(self, now: float) -> Iterator[Ended]:
        for expected in list(self.expected.values()):
            if expected.deadline <= now:
                seconds = expected.deadline - expected.started
                yield from self.give_up(expected.transfer, f"deadline: not whole after {seconds:.1f} s; {_progress(expected)}")


def _landed(operation: Operation) -> bool:
    return operation.done() and operation.status == OK


def _misfit(expected: Expected, part: int, length: int) -> str:
    """Why a message of this part and length cannot be what was announced; empty if it can."""
    if part == HEADER_PART:
        return f"garbled header: a frame of {length} bytes" if length > MAX_FRAME_BYTES else ""
    if HEADER_PART not in expected.parts:
        return f"lost header: part {part} came before it"
    where = segment(part, expected.nbytes)
    if length != where.stop - where.start or length == 0:
        return f"part {part} has {length} bytes where {where.stop - where.start} were announced"
    return ""


def _failure(expected: Expected) -> str:
    """What is already known to be wrong with it; reads the header as soon as it has landed."""
    for part, operation in expected.parts.items():
        if operation.done() and operation.status != OK:
            return f"part {part}: {describe(operation.status)}"
    if expected.header is None and HEADER_PART in expected.parts and _landed(expected.parts[HEADER_PART]):
        return _read_header(expected)
    return ""


def _read_header(expected: Expected) -> str:
    assert expected.frame is not None
    try:
        header, payload_bytes = unpack_frame(expected.frame)
    except TransportError as error:
        return str(error)
    if header.error:
        return header.error
    if header.transfer != expected.transfer:
        return f"garbled header: it is of transfer {header.transfer}"
    if payload_bytes != expected.nbytes:
        return f"the sender announces {payload_bytes} bytes where {expected.nbytes} were asked for"
    expected.header = header
    return ""


def _progress(expected: Expected) -> str:
    landed = sum(map(_landed, expected.parts.values()))
    return f"{landed} of {segments(expected.nbytes) + 1} parts landed"
