"""The logs: one per request, spread over shards, so that a gateway follows thousands with one read per shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import chain
from typing import Any

import msgpack
import xxhash

from shared import scripts
from shared.codec import LOG_ENTRIES, decode, encode
from shared.connection import OutOfMemory, entries_of
from shared.errors import FabricError, FabricUnavailable, Refused
from shared.fabric import FenceAnswer, LoggedEntry, LogHead, WriteStatus
from shared.messages import LogEnd, LogTokens, StoryLine
from shared.redis_base import RedisBase
from shared.scripts import Arg, Call
from shared.types import Phase, RequestId

Append = tuple[RequestId, int, tuple[LogTokens, ...], LogEnd | None]
"""`(request_id, attempt, tokens, end)`, as `append` takes them."""

RESUBSCRIBE_S = 0.5


class RedisLog(RedisBase):
    """The log's part of the fabric."""

    async def create_log(self, head: LogHead) -> None:
        """Raises `Refused` if the server has no memory for it."""
        key = self.keys.log(head.spec.request_id).head
        try:
            await self.connection.run(scripts.CREATE_LOG([key], encode(replace(head, fence=1)), head.fence, self.settings.live_ttl_s))
        except OutOfMemory as error:
            raise Refused("no memory for another request", 1.0, memory=True) from error

    async def discard_log(self, request_id: RequestId) -> None:
        """Takes back a log whose request was not accepted."""
        keys = self.keys.log(request_id)
        await self.connection.command("DEL", keys.head, keys.entries, keys.story)

    async def head(self, request_id: RequestId) -> LogHead | None:
        raw, fence = await self.connection.command("HMGET", self.keys.log(request_id).head, "head", "fence")
        return None if raw is None else replace(decode(raw, LogHead), fence=int(fence))

    async def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        return status(await self.connection.run(self._append((request_id, attempt, tokens, end))))

    async def append_many(self, appends: Sequence[Append]) -> tuple[WriteStatus, ...]:
        """The same for many logs in one round trip; answers in order.

        Give each log one append (of several `LogTokens`, if need be): only a log's last append can be repeated, and after a
        `FabricUnavailable` all of them must be.
        """
        answers = await self.connection.run_many([self._append(append) for append in appends])
        return tuple(map(status, answers))

    def _append(self, append: Append) -> Call:
        request_id, attempt, tokens, end = append
        keys = self.keys.log(request_id)
        entries: list[Arg] = []
        for entry in tokens:
            entries += (entry.choice, entry.index, len(entry.token_ids), encode(entry))
        ttls = (self.settings.live_ttl_s, self.settings.retention_s)
        ending = (end.phase.value, encode(end)) if end else ("", b"")
        return scripts.APPEND([keys.head, keys.entries], attempt, *ttls, digest_of(append), *ending, *entries)

    async def read_log(self, request_id: RequestId, after: str = "0-0") -> tuple[LoggedEntry, ...]:
        """Raises `DecodeError` for an entry that cannot be read: to skip one would be to lose a token."""
        return (await self.read_logs({request_id: after})).get(request_id, ())

    async def read_logs(self, after: Mapping[RequestId, str]) -> dict[RequestId, tuple[LoggedEntry, ...]]:
        """New entries of many logs, one read per shard, without waiting. Logs with nothing new are left out."""
        shards: dict[int, dict[str, RequestId]] = {}
        for request_id in after:
            keys = self.keys.log(request_id)
            shards.setdefault(keys.shard, {})[keys.entries] = request_id
        reads = [("XREAD", "STREAMS", *streams, *(after[request_id] for request_id in streams.values())) for streams in shards.values()]
        answers = await self._read_shards(reads)
        names = dict(chain.from_iterable(streams.items() for streams in shards.values()))
        return {names[stream]: _logged(entries) for answer in answers for stream, entries in entries_of(answer).items()}

    async def _read_shards(self, reads: list[tuple[str, ...]]) -> list[Any]:
        answers = await self.connection.pipeline(reads)
        for at, answer in enumerate(answers):
            if isinstance(answer, Exception):
                answers[at] = await self.connection.command(*reads[at])
        return answers

    async def raise_fence(self, request_id: RequestId, attempt: int) -> FenceAnswer:
        what, next_index, ended = await self.connection.run(scripts.RAISE_FENCE([self.keys.log(request_id).head], attempt))
        return FenceAnswer(status(what), next_index, Phase(ended.decode()) if ended else None)

    async def notify(self, request_ids: Sequence[RequestId]) -> None:
        """A hint that these logs grew. Readers poll as well, so a lost one costs only time, and nothing is raised."""
        try:
            await self.connection.publish(self.keys.wake, msgpack.packb(list(request_ids)))
        except FabricError:
            return

    async def wakeups(self) -> AsyncGenerator[tuple[RequestId, ...], None]:
        """Ids of logs that grew, for ever; close it with `aclosing`. An empty tuple: hints may have been missed, look at every log."""
        while True:
            try:
                async with aclosing(self.connection.subscribe(self.keys.wake)) as hints:
                    async for data in hints:
                        yield () if data is None else _ids(data)
            except FabricUnavailable:
                await asyncio.sleep(RESUBSCRIBE_S)

    async def tell_story(self, request_id: RequestId, lines: tuple[StoryLine, ...]) -> None:
        if lines:
            bounds = (self.settings.story_max, self.settings.story_ttl_s)
            await self.connection.run(scripts.TELL_STORY([self.keys.log(request_id).story], *bounds, *map(encode, lines)))

    async def story(self, request_id: RequestId) -> tuple[StoryLine, ...]:
        lines = await self.connection.command("LRANGE", self.keys.log(request_id).story, 0, -1)
        return tuple(decode(line, StoryLine) for line in lines)


def status(answer: bytes) -> WriteStatus:
    return WriteStatus(answer.decode())


def digest_of(append: Append) -> bytes:
    """Names what an append says, whenever its writer said it: a repeat by a writer that has forgotten its first try is one."""
    _, attempt, tokens, end = append
    said = [(entry.choice, entry.index, entry.token_ids, entry.text, entry.logprobs, entry.finish) for entry in tokens]
    ending = end and (end.phase, end.error, end.code)
    digest: bytes = xxhash.xxh3_128_digest(msgpack.packb((attempt, said, ending), unicode_errors="surrogatepass"))
    return digest


def _logged(entries: list[tuple[str, dict[bytes, bytes]]]) -> tuple[LoggedEntry, ...]:
    return tuple(LoggedEntry(entry_id, decode(fields[b"m"], *LOG_ENTRIES)) for entry_id, fields in entries)


def _ids(data: bytes) -> tuple[RequestId, ...]:
    """What is no list of ids wakes for all of them."""
    try:
        ids = msgpack.unpackb(data, use_list=False)
    except (ValueError, msgpack.exceptions.UnpackException):
        return ()
    return ids if type(ids) is tuple and all(type(item) is str for item in ids) else ()
