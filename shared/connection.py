"""The one way to the server: Redis or Valkey, alone or a cluster.

Commands share one connection to each node (`shared.wires`), have a finite timeout, and what is repeatable is tried once more.
Blocking reads have a client of their own, without a socket timeout (redis-py's default of five seconds with ten retries would turn
an idle stream into an error) and with a deadline. The client library itself retries nothing: a resent XADD would be a duplicate.
Its errors end here.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from redis import exceptions as foreign
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shared.addresses import TLS_FILES, addresses_of, plain_urls, without_password
from shared.durability import Mode, facts
from shared.errors import ConfigError, FabricError, FabricUnavailable, NotDurable
from shared.fabric_settings import FabricSettings
from shared.group_commit import GroupCommit
from shared.primary import pool_of_primary
from shared.scripts import Arg, Call
from shared.wires import Wires

log = logging.getLogger(__name__)
T = TypeVar("T")

Client = Any
"""`Redis` or `RedisCluster`: the calls used here are common to both."""

RETRY_PAUSE_S = 0.05
MIN_VERSION = (7, 0)
RESERVABLE = 0.5
"""Of a server's `maxmemory`: the rest is for what has ended and can still be read, for streams, and for what a bound cannot foresee."""
_AWAY = ("LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "READONLY", "MISCONF", "NOREPLICAS", "UNBLOCKED")
_CONNECTION = (foreign.ConnectionError, foreign.TimeoutError, foreign.ClusterError, foreign.RedisClusterException, OSError, TimeoutError)
_STRANGER = (foreign.AuthenticationError, foreign.NoPermissionError)
"""While connecting, the library hides them in a `ConnectionError`."""


class OutOfMemory(FabricUnavailable):
    """The server has reached its `maxmemory`."""


def translate(error: Exception) -> Exception:
    """Ours for a client library's error."""
    if any(isinstance(cause, _STRANGER) for cause in (error, error.__cause__, error.__context__)):
        return ConfigError(f"the message server refused our credentials ({error}): check the user and password in HEADSTART_REDIS_URL")
    if _is_about_certificates(error):
        return ConfigError(f"TLS with the message server failed ({error}): check {', '.join(TLS_FILES)} in HEADSTART_REDIS_URL")
    if isinstance(error, _CONNECTION):
        return FabricUnavailable(f"the message server cannot be reached: {str(error) or type(error).__name__}")
    if isinstance(error, foreign.OutOfMemoryError) or str(error).startswith("OOM"):
        return OutOfMemory("the message server is out of memory")
    if isinstance(error, foreign.BusyLoadingError | foreign.ReadOnlyError) or str(error).startswith(_AWAY):
        return FabricUnavailable(f"the message server is not ready: {error}")
    return FabricError(f"the message server says: {error}")


def _is_about_certificates(error: BaseException | None) -> bool:
    """Ours or the server's was not accepted: no retry will help. Other failures of TLS are cuts like any other."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and "CERTIFICATE" in (error.reason or ""):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except (foreign.RedisError, OSError, TimeoutError) as error:
        raise translate(error) from error


class FabricConnection:
    """Runs scripts, reads streams, carries hints. One per process is enough; close it with `close`."""

    def __init__(self, commands: Client, blocking: Client, settings: FabricSettings, url: str, maxmemory_bytes: int = 0) -> None:
        self._commands = commands
        self._wires = Wires(commands, settings.command_timeout_s)
        self._durable = _group_commit(commands, settings)
        """Where writes go that somebody is told of, if the server is to be asked whether a crash could undo them."""
        self._blocking = blocking
        self._settings = settings
        self._url = url
        self.reservable_bytes = min(settings.max_reserved_bytes, int(maxmemory_bytes * RESERVABLE) or settings.max_reserved_bytes)
        """What all live requests of a pool may come to need, as large as the server is."""

    def __repr__(self) -> str:
        return f"<FabricConnection {without_password(self._url)}{' cluster' if self.is_cluster else ''}>"

    @property
    def is_cluster(self) -> bool:
        return self._wires.is_cluster

    async def run(self, call: Call) -> Any:
        """One script's answer. Raises `FabricUnavailable`; the script may have run all the same."""
        if not call.script.repeatable:
            return await self._run(call)
        return await again(lambda: self._run(call))

    async def _run(self, call: Call) -> Any:
        (answer,) = await self._run_together([call.by_digest()], durable=call.script.durable)
        if isinstance(answer, foreign.NoScriptError):
            (answer,) = await self._run_together([call.by_text()], durable=call.script.durable)
        with translated():
            return _or_raised(answer)

    async def _run_together(self, commands: Sequence[tuple[Arg, ...]], *, durable: bool) -> list[Any]:
        with translated():
            return await (self._durable.run(commands) if durable and self._durable else self._wires.run(commands))

    async def until_durable(self) -> None:
        """Returns once no crash can undo what could be read up to now: at once in a mode that does not wait. Raises `NotDurable`."""
        if self._durable:
            await self._run_together([], durable=True)

    async def run_many(self, calls: Sequence[Call]) -> list[Any]:
        """The answers of repeatable scripts, in order, in one round trip to each node."""
        if len(calls) == 1:
            return [await self.run(calls[0])]
        if not calls:
            return []
        answers = await self._run_together([call.by_digest() for call in calls], durable=any(call.script.durable for call in calls))
        await self._teach([at for at, answer in enumerate(answers) if isinstance(answer, foreign.NoScriptError)], calls, answers)
        for at, answer in enumerate(answers):
            if isinstance(answer, Exception):
                answers[at] = await self.run(calls[at])
        return answers

    async def _teach(self, unknown: Sequence[int], calls: Sequence[Call], answers: list[Any]) -> None:
        """All that a new server did not know at once: by turns, each would wait for its own durability."""
        durable = any(calls[at].script.durable for at in unknown)
        taught = await self._run_together([calls[at].by_text() for at in unknown], durable=durable) if unknown else []
        for at, answer in zip(unknown, taught, strict=True):
            answers[at] = answer

    async def pipeline(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """Answers in order, as the server wrote them; an error stands in its command's place."""
        return await self._run_together(commands, durable=False) if commands else []

    async def command(self, *command: Arg) -> Any:
        """One command's answer, as the server wrote it, tried once more: only for what names a key and can be repeated."""

        async def attempt() -> Any:
            with translated():
                return _or_raised((await self._wires.run([command]))[0])

        return await again(attempt)

    async def server_life(self) -> str:
        """Drawn by the server when it starts; empty in a cluster, which has many."""
        if self.is_cluster:
            return ""
        said: bytes = await self.command("INFO", "server")
        return next((line[7:].decode() for line in said.splitlines() if line.startswith(b"run_id:")), "")

    async def ask(self, *command: Arg) -> Any:
        """One command without a key, as the client library sends and reads it: for operators and tests."""
        with translated():
            return await self._commands.execute_command(*command)

    async def _to_node_of(self, client: Client, key: str) -> dict[str, Any]:
        """Nothing to say for a single server; a cluster's client looks again where its slots are, if it has lost a node."""
        if not self.is_cluster:
            return {}
        await client.initialize()
        return {"target_nodes": client.nodes_manager.get_node_from_slot(client.keyslot(key))}

    async def read(self, stream: str, after: str, count: int, block_ms: int) -> list[tuple[str, dict[bytes, bytes]]]:
        """Entries of one stream after an id, waiting up to `block_ms` for the first one (0: not at all)."""
        if block_ms <= 0:
            return entries_of(await self.command("XREAD", "COUNT", count, "STREAMS", stream, after)).get(stream, [])
        command = ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", stream, after)
        with translated():
            route = await self._to_node_of(self._blocking, stream)
            async with asyncio.timeout(block_ms / 1000 + self._settings.command_timeout_s):
                return read_entries(await self._blocking.execute_command(*command, **route)).get(stream, [])

    async def publish(self, channel: str, data: bytes) -> None:
        with translated():
            _or_raised((await self._wires.run([("PUBLISH", channel, data)]))[0])

    async def subscribe(self, channel: str) -> AsyncGenerator[bytes | None, None]:
        """What is published from now on. None: subscribed, now or again, and something may have been missed."""
        with translated():
            pubsub = self._blocking.pubsub(ignore_subscribe_messages=False)
            try:
                await pubsub.subscribe(channel)
                async for message in pubsub.listen():
                    if message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        yield message["data"]
            finally:
                await pubsub.aclose()

    async def close(self) -> None:
        await self._commands.aclose()
        await self._blocking.aclose()
        await self._wires.close()
        if self._durable:
            await self._durable.close()


async def again(attempt: Callable[[], Awaitable[T]]) -> T:
    """A second try after a short pause: enough for a connection that an idle server or a fail-over has cut."""
    try:
        return await attempt()
    except (OutOfMemory, NotDurable):
        raise
    except FabricUnavailable:
        await asyncio.sleep(RETRY_PAUSE_S)
        return await attempt()


def _or_raised(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


Fields = dict[bytes, bytes]


def entries_of(answer: Any) -> dict[str, list[tuple[str, Fields]]]:
    """XREAD's answer, as the server wrote it, as {stream: [(id, fields)]}."""
    return {
        stream.decode(): [(entry_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True))) for entry_id, fields in entries]
        for stream, entries in answer or ()
    }


def read_entries(answer: Any) -> dict[str, list[tuple[str, Fields]]]:
    """The same of an answer that the client library has read."""
    return {stream.decode(): [(entry_id.decode(), fields) for entry_id, fields in entries] for stream, entries in answer or ()}


async def open_connection(url: str, settings: FabricSettings | None = None) -> FabricConnection:
    """Connects to `redis://`, `rediss://` or `unix://`, to the primary of a list of these, and to a cluster: by `redis+cluster://`, or
    because the server says so.

    Raises `FabricUnavailable`, or `ConfigError` for a server that would not do.
    """
    settings = settings or FabricSettings()
    plain = plain_urls(url)
    in_cluster, maxmemory_bytes = await _check(plain, settings)
    is_cluster = in_cluster or plain != addresses_of(url)
    if is_cluster:
        commands, blocking = _cluster(plain[0], settings, settings.command_timeout_s), _cluster(plain[0], settings, None)
        with translated():
            await commands.initialize()
            await blocking.initialize()
    else:
        commands, blocking = _single(plain, settings, settings.command_timeout_s), _single(plain, settings, None)
    connection = FabricConnection(commands, blocking, settings, url, 0 if is_cluster else maxmemory_bytes)
    await _try_durability(connection, settings)
    return connection


async def _try_durability(connection: FabricConnection, settings: FabricSettings) -> None:
    """What a server says of itself is one thing: replicas without a disk, for one, only show when they are asked."""
    try:
        await connection.until_durable()
    except NotDurable as error:
        await connection.close()
        raise ConfigError(f"--durability {settings.durability} cannot be kept: {error}; mend that, or choose another mode") from error
    except BaseException:
        await connection.close()
        raise


def _group_commit(client: Client, settings: FabricSettings) -> GroupCommit | None:
    if not settings.durability.waits:
        return None
    return GroupCommit(Wires(client, settings.command_timeout_s), settings.durability, settings.durable_wait_s)


def _single(urls: tuple[str, ...], settings: FabricSettings, timeout_s: float | None) -> Client:
    options: dict[str, Any] = {} if urls[0].startswith("unix:") else {"socket_keepalive": True}
    options |= {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
    }
    if len(urls) == 1:
        return Redis.from_url(urls[0], **options)
    return Redis.from_pool(pool_of_primary(urls, need_fsync=settings.durability.mode is Mode.FSYNC, **options))


def _cluster(url: str, settings: FabricSettings, timeout_s: float | None) -> Client:
    return RedisCluster.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_keepalive=True,
        max_connections=4096,
    )


async def _check(urls: tuple[str, ...], settings: FabricSettings) -> tuple[bool, int]:
    """Whether the server is part of a cluster, and its `maxmemory` (0: none).

    Raises `ConfigError` if it is too old, would forget our keys, or cannot make writes as durable as they are to be."""
    client = _single(urls, settings, settings.command_timeout_s)
    try:
        with translated():
            info = await client.info()
        server = facts(info, await _fsync_of(client))
    finally:
        await client.aclose()
    if server.version < MIN_VERSION:
        raise ConfigError(f"the message server is version {info['redis_version']}: Redis 7.0 or Valkey 8 is the oldest that will do")
    if info.get("maxmemory", 0) and info.get("maxmemory_policy") != "noeviction":
        raise ConfigError(f"the message server evicts keys ({info['maxmemory_policy']}): set maxmemory-policy noeviction")
    if complaint := settings.durability.complaint(server):
        raise ConfigError(complaint)
    return server.in_cluster, int(info.get("maxmemory", 0))


async def _fsync_of(client: Client) -> str:
    """Empty where we may not ask."""
    try:
        return str((await client.config_get("appendfsync")).get("appendfsync", ""))
    except foreign.ResponseError:
        return ""
