"""The connections of one process: one to each node that has something of ours, opened when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions as foreign
from redis.asyncio import RedisCluster
from redis.asyncio.connection import AbstractConnection

from shared.scripts import Arg
from shared.wire import Wire

Command = tuple[Arg, ...]
Client = Any
"""`Redis` or `RedisCluster`: who knows addresses and, of a cluster, which slots are where."""

_MAX_REDIRECTS = 5
_KEY_AT = {"EVALSHA": 3, "EVAL": 3}
"""Where a command's first key stands, if not right behind its name."""


class Wires:
    """Commands of any keys in, answers out, whichever node they come from."""

    def __init__(self, client: Client, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._wires: dict[str, Wire] = {}
        self._opening = asyncio.Lock()

    @property
    def is_cluster(self) -> bool:
        return isinstance(self._client, RedisCluster)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers in order; an error stands in its command's place. Raises the client library's connection errors."""
        if not self.is_cluster:
            return await self._run_at("", commands)
        answers = await self._run_routed(commands)
        for _ in range(_MAX_REDIRECTS):
            moved = [at for at, answer in enumerate(answers) if isinstance(answer, foreign.MovedError | foreign.AskError)]
            if not moved:
                break
            for at, answer in zip(moved, await self._redirected([(commands[at], answers[at]) for at in moved]), strict=True):
                answers[at] = answer
        return answers

    async def close(self) -> None:
        wires, self._wires = list(self._wires.values()), {}
        await asyncio.gather(*(wire.close() for wire in wires))

    # -- to one node

    async def _run_at(self, node: str, commands: Sequence[Command]) -> list[Any]:
        wire = self._wires.get(node)
        if wire is None or not wire.is_open:
            wire = await self._open(node)
        answers = await wire.run(commands, self._timeout_s)
        if any(isinstance(answer, foreign.ReadOnlyError) for answer in answers):
            wire.abort()  # It was the primary once: whoever is asked next may know of another.
        return answers

    async def _open(self, node: str) -> Wire:
        async with self._opening:
            known = self._wires.get(node)
            if known is not None and known.is_open:
                return known
            if known is not None:
                del self._wires[node]
                await known.close()
            self._wires[node] = await Wire.open(self._connection(node))
            return self._wires[node]

    def _connection(self, node: str) -> AbstractConnection:
        connection: AbstractConnection
        if self.is_cluster:
            known = self._client.nodes_manager.nodes_cache[node]
            connection = known.connection_class(**known.connection_kwargs)
        else:
            connection = self._client.connection_pool.make_connection()
        return connection

    # -- to a cluster

    async def _run_routed(self, commands: Sequence[Command]) -> list[Any]:
        await self._client.initialize()
        at_node: dict[str, list[int]] = {}
        for at, command in enumerate(commands):
            at_node.setdefault(self._node_of(command), []).append(at)
        asked = await asyncio.gather(*(self._run_or_look_again(node, [commands[at] for at in where]) for node, where in at_node.items()))
        answers: list[Any] = [None] * len(commands)
        for where, found in zip(at_node.values(), asked, strict=True):
            for at, answer in zip(where, found, strict=True):
                answers[at] = answer
        return answers

    async def _run_or_look_again(self, node: str, commands: list[Command]) -> list[Any]:
        """A node that is gone may have been replaced: the next command asks the cluster who is there."""
        try:
            return await self._run_at(node, commands)
        except (foreign.ConnectionError, OSError, TimeoutError, KeyError):
            await self._client.aclose()
            raise

    def _node_of(self, command: Command) -> str:
        name = str(command[0])
        key = command[command.index("STREAMS") + 1] if name == "XREAD" else command[_KEY_AT.get(name, 1)]
        node: str = self._client.nodes_manager.get_node_from_slot(self._client.keyslot(key)).name
        return node

    async def _redirected(self, refused: list[tuple[Command, Any]]) -> list[Any]:
        """The slots have moved, for good or for one question."""
        await self._client.aclose()
        await self._client.initialize()
        return [
            await self._ask(command, why) if isinstance(why, foreign.AskError) else (await self._run_routed([command]))[0]
            for command, why in refused
        ]

    async def _ask(self, command: Command, why: foreign.AskError) -> Any:
        return (await self._run_at(f"{why.host}:{why.port}", [("ASKING",), command]))[1]
