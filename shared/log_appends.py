"""Appends to logs as the script takes them, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack
import xxhash

from shared import scripts
from shared.entry_codec import encode_entry
from shared.fabric import WriteStatus
from shared.hints import News
from shared.keys import Keys
from shared.messages import LogEnd, LogTokens
from shared.scripts import Arg, Call
from shared.types import RequestId

Append = tuple[RequestId, int, tuple[LogTokens, ...], LogEnd | None]
"""`(request_id, attempt, tokens, end)`, as `append` takes them."""

_CLOCK = LogTokens._fields.index("at_ms")
_PACKER = msgpack.Packer(unicode_errors="surrogatepass")  # It holds the interpreter's lock for all of a `pack`.


class EncodedAppend(NamedTuple):
    """One log's part of the script's arguments."""

    request_id: RequestId
    args: list[Arg]
    entries: list[bytes]
    """As they will stand in the log, the end among them."""


class Written(NamedTuple):
    status: WriteStatus
    news: News | None
    """What to tell about the log; None if it did not grow."""


def encoded_append(append: Append) -> EncodedAppend:
    request_id, attempt, tokens, end = append
    entries = [encode_entry(entry) for entry in tokens]
    ending = encode_entry(end) if end else b""
    args: list[Arg] = [attempt, digest_of(append), _phase_and_counts(end), ending, len(tokens)]
    for entry, raw in zip(tokens, entries, strict=True):
        args += (entry.choice, entry.index, len(entry.token_ids), raw)
    if end:
        entries.append(ending)
    return EncodedAppend(request_id, args, entries)


def _phase_and_counts(end: LogEnd | None) -> str:
    """The phase, and behind it the counts of the choices."""
    return " ".join((end.phase.value, *map(str, end.counts))) if end else ""


def append_call(keys: Keys, appends: Sequence[EncodedAppend], ttls: tuple[int, int]) -> Call:
    """One script for logs of one shard."""
    names: list[str] = []
    args: list[Arg] = [*ttls]
    for append in appends:
        log = keys.log(append.request_id)
        names += (log.head, log.entries)
        args += append.args
    return scripts.APPEND(names, *args)


def written_of(append: EncodedAppend, answer: bytes) -> Written:
    """A `done` that names no entries is a repeat: they were in the log before, but perhaps nobody was told."""
    status, *ids = answer.decode().split(" ")
    if status != WriteStatus.DONE:
        return Written(WriteStatus(status), None)
    if not ids:
        return Written(WriteStatus.DONE, (append.request_id,))
    return Written(WriteStatus.DONE, (append.request_id, ids[0], ids[1:], append.entries))


def digest_of(append: Append) -> bytes:
    """Names what an append says, whenever its writer said it: a repeat by a writer that has forgotten its first try is one."""
    _, attempt, tokens, end = append
    said = [entry[:_CLOCK] + entry[_CLOCK + 1 :] for entry in tokens]
    ending = end and (end.phase, end.error, end.code)
    digest: bytes = xxhash.xxh3_128_digest(_PACKER.pack((attempt, said, ending)))
    return digest
