"""The logs: one per request, spread over shards, so that a gateway follows thousands with one read per shard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import chain
from typing import Any

from shared import hints, scripts
from shared.codec import decode, encode
from shared.connection import OutOfMemory, entries_of
from shared.entry_codec import decode_entry
from shared.errors import DecodeError, FabricError, FabricUnavailable, Refused
from shared.fabric import FenceAnswer, Grown, LoadedLog, LoggedEntry, LogHead, WriteStatus
from shared.keys import log_shard
from shared.log_appends import Append, Written, append_call, encoded_append, written_of
from shared.messages import LogEnd, LogTokens, StoryLine
from shared.redis_base import RedisBase
from shared.scripts import Arg
from shared.types import Phase, RequestId

log = logging.getLogger(__name__)

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

    async def retain(self, request_ids: Sequence[RequestId], seconds: int = 0) -> None:
        """Ended logs that a conversation goes on from are kept for one more retention time; what lives longer stays as it is."""
        seconds = seconds or self.settings.ended_ttl_s
        keys = [key for keys in map(self.keys.log, request_ids) for key in (keys.head, keys.entries)]
        await self.connection.pipeline([("EXPIRE", key, seconds, "GT") for key in keys])

    async def head(self, request_id: RequestId) -> LogHead | None:
        raw, fence = await self.connection.command("HMGET", self.keys.log(request_id).head, "head", "fence")
        return None if raw is None else replace(decode(raw, LogHead), fence=int(fence))

    async def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        return (await self.append_many([(request_id, attempt, tokens, end)]))[0]

    async def append_many(self, appends: Sequence[Append]) -> tuple[WriteStatus, ...]:
        """The same for many logs, one script for each shard, in one round trip; answers in order.

        Give each log one append (of several `LogTokens`, if need be): only a log's last append can be repeated, and after a
        `FabricUnavailable` all of them must be.
        """
        return tuple(written.status for written in await self._write(appends))

    async def write(self, appends: Sequence[Append]) -> tuple[WriteStatus, ...]:
        """`append_many`, and whoever follows these logs is told at once what is in them now."""
        written = await self._write(appends)
        for message in hints.messages([one.news for one in written if one.news]):
            await self._hint(message)
        return tuple(one.status for one in written)

    async def _write(self, appends: Sequence[Append]) -> list[Written]:
        shards: dict[int, list[int]] = {}
        for at, append in enumerate(appends):
            shards.setdefault(log_shard(append[0]), []).append(at)
        encoded = [encoded_append(append) for append in appends]
        ttls = (self.settings.live_ttl_s, self.settings.ended_ttl_s)
        calls = [append_call(self.keys, [encoded[at] for at in places], ttls) for places in shards.values()]
        answers = await self.connection.run_many(calls)
        written: dict[int, Written] = {}
        for places, answer in zip(shards.values(), answers, strict=True):
            written.update({at: written_of(encoded[at], said) for at, said in zip(places, answer, strict=True)})
        return [written[at] for at in range(len(appends))]

    async def read_log(self, request_id: RequestId, after: str = "0-0", count: int = 0) -> tuple[LoggedEntry, ...]:
        """Raises `DecodeError` for an entry that cannot be read: to skip one would be to lose a token."""
        most = ("COUNT", count) if count else ()
        stream = self.keys.log(request_id).entries
        found = entries_of(await self.connection.command("XREAD", *most, "STREAMS", stream, after))
        if found:
            await self.connection.until_durable()
        return _logged(found.get(stream, []))

    async def read_logs(self, after: Mapping[RequestId, str]) -> dict[RequestId, tuple[LoggedEntry, ...]]:
        """New entries of many logs, one read per shard, without waiting. Logs with nothing new are left out."""
        shards: dict[int, dict[str, RequestId]] = {}
        for request_id in after:
            keys = self.keys.log(request_id)
            shards.setdefault(keys.shard, {})[keys.entries] = request_id
        reads = [("XREAD", "STREAMS", *streams, *(after[request_id] for request_id in streams.values())) for streams in shards.values()]
        answers = await self._read_shards(reads)
        if any(answers):
            # Its writer may still be waiting to hear that they are safe.
            await self.connection.until_durable()
        names = dict(chain.from_iterable(streams.items() for streams in shards.values()))
        return {names[stream]: _logged(entries) for answer in answers for stream, entries in entries_of(answer).items()}

    async def _read_shards(self, reads: Sequence[tuple[Arg, ...]]) -> list[Any]:
        answers = await self.connection.pipeline(reads)
        for at, answer in enumerate(answers):
            if isinstance(answer, Exception):
                answers[at] = await self.connection.command(*reads[at])
        return answers

    async def load_logs(self, request_ids: tuple[RequestId, ...]) -> tuple[LoadedLog | None, ...]:
        """In one round trip to each node."""
        reads: list[tuple[Arg, ...]] = []
        for request_id in request_ids:
            keys = self.keys.log(request_id)
            reads += (("HMGET", keys.head, "head", "fence"), ("XREAD", "STREAMS", keys.entries, "0-0"))
        answers = await self._read_shards(reads)
        return tuple(map(self._loaded, request_ids, answers[::2], answers[1::2]))

    def _loaded(self, request_id: RequestId, head: list[bytes | None], entries: Any) -> LoadedLog | None:
        raw, fence = head
        if raw is None or fence is None:
            return None
        try:
            logged = [one for found in entries_of(entries).values() for one in _logged(found)]
            return LoadedLog(replace(decode(raw, LogHead), fence=int(fence)), tuple(one.entry for one in logged))
        except DecodeError as error:
            log.error("the log of %s cannot be read: %s", request_id, error)
            return None

    async def raise_fence(self, request_id: RequestId, attempt: int) -> FenceAnswer:
        keys = self.keys.log(request_id)
        what, next_index, ended, end = await self.connection.run(scripts.RAISE_FENCE([keys.head, keys.entries], attempt))
        return FenceAnswer(status(what), next_index, Phase(ended.decode()) if ended else None, self._code_of(keys.entries, end))

    def _code_of(self, where: str, end: bytes) -> str:
        """Of the end that a log has, if it has one; empty where it cannot be read."""
        return next((entry.code for entry in self._readable(where, end, (LogEnd,))), "") if end else ""

    async def notify(self, request_ids: Sequence[RequestId]) -> None:
        """A hint that these logs grew. Readers poll as well, so a lost one costs only time, and nothing is raised."""
        for message in hints.messages([(request_id,) for request_id in request_ids]):
            await self._hint(message)

    async def _hint(self, message: bytes) -> None:
        try:
            await self.connection.publish(self.keys.wake, message)
        except FabricError:
            return

    async def wakeups(self, wanted: Container[RequestId] | None = None) -> AsyncGenerator[tuple[Grown, ...], None]:
        """Which of the wanted logs (by default of all) grew and by what, for ever; close it with `aclosing`.

        An empty tuple: hints may have been missed, look at every log.
        """
        while True:
            try:
                async with aclosing(self.connection.subscribe(self.keys.wake)) as messages:
                    async for data in messages:
                        grown = () if data is None else hints.read(data, wanted)
                        if grown is not None:
                            yield grown
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


def _logged(entries: list[tuple[str, dict[bytes, bytes]]]) -> tuple[LoggedEntry, ...]:
    return tuple([LoggedEntry(entry_id, decode_entry(fields[b"m"])) for entry_id, fields in entries])
