"""Receiving from one incarnation of a sender.

Every receive is posted before its sender is told the address. A transfer given up takes back the receives whose bytes have not
begun to come, so their memory is free at once; the others keep theirs until they are done. What comes for nobody, late or
twice, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shared.errors import TransportError
from shared.types import TransferId
from workers.staging import Region
from workers.transport import TransferHeader
from workers.ucx_binding import OK, Operation, describe
from workers.ucx_link import LAND_S, Link
from workers.ucx_wire import FRAME_BYTES, HEADER_PART, segment, segments, tag, unpack_frame


@dataclass(eq=False, slots=True)
class Expected:
    """A transfer that its receiver has announced. `parts[0]` receives the header frame, the others the segments."""

    transfer: TransferId
    region: Region
    nbytes: int
    started: float
    deadline: float
    frame: memoryview = field(default_factory=lambda: np.empty(FRAME_BYTES, np.uint8).data)
    parts: list[Operation] = field(default_factory=list)
    header: TransferHeader | None = None
    landed: int = 0
    """Parts that have landed and are as announced, in order."""

    @property
    def whole(self) -> bool:
        """The header is known and every byte has landed."""
        return self.landed == len(self.parts)


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

    @property
    def busy(self) -> bool:
        return bool(self.expected)

    def expect(self, expected: Expected) -> None:
        """Posts its receives. Raises `TransportError` if it is already under way."""
        if expected.transfer in self.expected:
            raise TransportError(f"transfer {expected.transfer} is already under way")
        self.expected[expected.transfer] = expected
        expected.parts.append(self._post(expected, HEADER_PART, expected.frame, None))
        for part in range(1, segments(expected.nbytes) + 1):
            into = expected.region.view[segment(part, expected.nbytes)]
            expected.parts.append(self._post(expected, part, into, expected.region))

    def give_up(self, transfer: TransferId, reason: str, now: float) -> list[Ended]:
        expected = self.expected.pop(transfer, None)
        if expected is None:
            return []
        for operation in expected.parts:
            self.link.worker.cancel(operation)
        if not _says_nothing_comes(expected):
            self.link.late(now)
        self.link.land()
        return [Ended(expected, reason)]

    def visit(self, now: float) -> list[Ended]:
        """Moves bytes and answers which transfers are over: the oldest as soon as it is, the others within `LAND_S`."""
        self.link.burst()
        self.link.refuse_strays()
        ended = []
        while (oldest := next(iter(self.expected.values()), None)) and (end := self._end_of(oldest, now)):
            ended += end
        if now - self.link.last_landed > LAND_S:
            ended += [end for expected in list(self.expected.values()) for end in self._end_of(expected, now)]
            self.link.land()
        return ended

    def _post(self, expected: Expected, part: int, into: memoryview, region: Region | None) -> Operation:
        return self.link.watch(self.link.worker.receive(tag(expected.transfer, part), into), region)

    def _end_of(self, expected: Expected, now: float) -> list[Ended]:
        if error := _look(expected) or ("" if expected.whole else _overdue(expected, now)):
            return self.give_up(expected.transfer, error, now)
        if not expected.whole:
            return []
        del self.expected[expected.transfer]
        self.link.let_go(expected.parts)
        return [Ended(expected, "")]


def _look(expected: Expected) -> str:
    """Takes note of the parts that have landed since, up to one that is wrong: answers what is wrong with it."""
    while not expected.whole and (operation := expected.parts[expected.landed]).done():
        if error := _misfit(expected, expected.landed, operation):
            return error
        expected.landed += 1
    return ""


def _misfit(expected: Expected, part: int, operation: Operation) -> str:
    if operation.status != OK:
        return f"part {part}: {describe(operation.status)}"
    if part == HEADER_PART:
        return _read_header(expected)
    where = segment(part, expected.nbytes)
    if operation.length != where.stop - where.start:
        return f"part {part} has {operation.length} bytes where {where.stop - where.start} were announced"
    return ""


def _read_header(expected: Expected) -> str:
    try:
        header, payload_bytes = unpack_frame(expected.frame[: expected.parts[HEADER_PART].length])
    except TransportError as error:
        return str(error)
    if header.transfer != expected.transfer:
        return f"garbled header: it is of transfer {header.transfer}"
    expected.header = header
    if payload_bytes != expected.nbytes and not header.error:
        return f"the sender announces {payload_bytes} bytes where {expected.nbytes} were asked for"
    return header.error


def _says_nothing_comes(expected: Expected) -> bool:
    return expected.header is not None and bool(expected.header.error)


def _overdue(expected: Expected, now: float) -> str:
    if now < expected.deadline:
        return ""
    landed = sum(part.done() for part in expected.parts)
    lost = "" if expected.parts[HEADER_PART].done() else ", not the header"
    return f"deadline: {landed} of {len(expected.parts)} parts came within {expected.deadline - expected.started:.1f} s{lost}"
