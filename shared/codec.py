"""Messages <-> bytes: msgpack of `[version, tag, fields...]`.

Fields are only added at the end and with defaults, so that neighbours of unlike releases read each other (`shared.versions`). Whatever
cannot be read is a `DecodeError` that keeps the bytes, `UnknownVersion` if it comes from further away; no other exception leaves `decode`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args, overload

import msgpack

from shared import messages
from shared.errors import DecodeError, UnknownVersion
from shared.fabric import LogHead
from shared.messages import Control, Job, LogEntry, PoolEvent
from shared.packing import Misfit, Shapes
from shared.profile import PeerLink, Profile, StepShape
from shared.types import JobSeq, RequestSpec, SamplingParams, TokenSpan, WorkerRef
from shared.versions import VERSION, mismatch, readable

MAX_BYTES = 32 * 1024 * 1024
"""Of one message: six times the longest prompt that a model of today takes."""
MAX_ITEMS = 4 * 1024 * 1024

T = TypeVar("T")

TAGS: dict[int, type] = {
    1: messages.Submission,
    2: messages.Report,
    3: messages.GatewayBeat,
    4: messages.ListenerChange,
    5: messages.CancelAsked,
    6: messages.Assign,
    7: messages.AssistOrder,
    8: messages.StopAssist,
    9: messages.ReleaseAssist,
    10: messages.Cancel,
    11: messages.Revoke,
    12: messages.Pull,
    13: messages.PullRefused,
    14: messages.AbandonTransfer,
    15: messages.Drain,
    16: messages.LogTokens,
    17: messages.LogEnd,
    18: messages.WorkerInfo,
    19: messages.StoryLine,
    20: messages.AgentInfo,
    21: messages.ManagedWorker,
    32: LogHead,
    33: RequestSpec,
    34: SamplingParams,
    35: Profile,
    36: StepShape,
    37: WorkerRef,
    38: JobSeq,
    39: TokenSpan,
    40: PeerLink,
}
"""A tag is for ever: never give an old one to another class."""

JOBS: tuple[type[Job], ...] = get_args(Job)
CONTROL: tuple[type[Control], ...] = get_args(Control)
POOL_EVENTS: tuple[type[PoolEvent], ...] = get_args(PoolEvent)
LOG_ENTRIES: tuple[type[LogEntry], ...] = get_args(LogEntry)


class Codec:
    """Encodes and decodes one family of frozen dataclasses, in one version of it."""

    def __init__(self, tags: Mapping[int, type], version: int = VERSION) -> None:
        shapes = Shapes(tags)
        self._version = version
        self._packer = msgpack.Packer(unicode_errors="surrogatepass")  # It holds the interpreter's lock for all of a `pack`.
        self._packers = {kind: (tag, shapes.of(kind).pack) for tag, kind in tags.items()}
        self._kinds = {tag: (kind, shapes.of(kind).unpack) for tag, kind in tags.items()}

    def encode(self, message: object) -> bytes:
        """Raises `TypeError` or `ValueError` for what is no message: a bug of the caller."""
        if type(message) not in self._packers:
            raise TypeError(f"{type(message).__name__} has no tag")
        tag, pack = self._packers[type(message)]
        fields = pack(message) if pack else []
        raw: bytes = self._packer.pack([self._version, tag, *fields])
        return raw

    @overload
    def decode(self, raw: bytes, /) -> object: ...

    @overload
    def decode(self, raw: bytes, kind: type[T], /, *kinds: type[T]) -> T: ...

    def decode(self, raw: bytes, /, *kinds: type[Any]) -> Any:
        """The message, which is one of `kinds` (any message if none is named)."""
        try:
            kind, unpack, fields = self._open(raw)
            if kinds and kind not in kinds:
                raise Misfit(f"{kind.__name__} where {' or '.join(wanted.__name__ for wanted in kinds)} belongs")
            return unpack(fields)
        except (ValueError, OverflowError, msgpack.exceptions.UnpackException) as error:
            raise DecodeError(f"no message: {error}", raw) from error

    def _open(self, raw: bytes) -> tuple[type, Any, tuple[Any, ...]]:
        if len(raw) > MAX_BYTES:
            raise Misfit(f"{len(raw)} bytes, more than {MAX_BYTES}")
        frame = msgpack.unpackb(raw, use_list=False, unicode_errors="surrogatepass", max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS)
        if type(frame) is not tuple or len(frame) < 2 or type(frame[0]) is not int or type(frame[1]) is not int:
            raise Misfit("a frame is [version, tag, fields...]")
        if not readable(frame[0], self._version):
            raise UnknownVersion(f"no message: {mismatch(frame[0], self._version)}", raw, frame[0])
        if frame[1] not in self._kinds:
            raise Misfit(f"unknown tag {frame[1]}")
        return *self._kinds[frame[1]], frame[2:]


_CODEC = Codec(TAGS)
encode = _CODEC.encode
decode = _CODEC.decode
