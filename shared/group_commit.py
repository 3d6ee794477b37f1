"""Writes that are answered once the server has made them durable: as many as come while it does, behind one command that waits.

A connection that waits in WAIT or WAITAOF reads no further command. So there is a connection for these writes alone, with one group
under way; what comes meanwhile is the next group. A write waits for two groups at most, whatever the load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from shared.durability import Durability
from shared.errors import NotDurable
from shared.keys import MARK_KEY
from shared.scripts import MARK
from shared.wires import Command, Wires


@dataclass(slots=True, eq=False)
class _Turn:
    commands: Sequence[Command]
    done: asyncio.Future[list[Any]]


class GroupCommit:
    """`run` from any task. Needs a server that is no cluster."""

    def __init__(self, wires: Wires, durability: Durability, wait_s: float) -> None:
        self._wires = wires
        self._durability = durability
        self._wait_ms = max(1, round(1000 * wait_s))
        self._turns: list[_Turn] = []
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<GroupCommit {self._durability} [{len(self._turns)} waiting]>"

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, once all that was written before is durable; without commands it only waits for that.

        Raises `NotDurable` when the server did not say so in time, the client library's errors when it did not answer.
        """
        turn = _Turn(commands, asyncio.get_running_loop().create_future())
        self._turns.append(turn)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit_all())
        return await turn.done

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for turn in self._turns:
            turn.done.cancel()
        await self._wires.close()

    async def _commit_all(self) -> None:
        while self._turns:
            turns, self._turns = self._turns, []
            try:
                answers = await self._commit(turns)
            except BaseException as error:
                _fail(turns, error)
                if not isinstance(error, Exception):
                    raise
            else:
                _answer(turns, answers)

    async def _commit(self, turns: Sequence[_Turn]) -> list[Any]:
        commands = list(chain.from_iterable(turn.commands for turn in turns))
        mark, wait = MARK([MARK_KEY]).by_text(), self._durability.command(self._wait_ms)
        *answers, marked, waited = await self._wires.run([*commands, mark, wait])
        short = self._durability.shortfall(marked if isinstance(marked, Exception) else waited)
        if short:
            raise NotDurable(f"the message server has not made the write durable ({self._durability}): {short}")
        return answers


def _fail(turns: Sequence[_Turn], error: BaseException) -> None:
    for turn in turns:
        if not turn.done.done():
            turn.done.set_exception(error) if isinstance(error, Exception) else turn.done.cancel()


def _answer(turns: Sequence[_Turn], answers: Sequence[Any]) -> None:
    at = 0
    for turn in turns:
        if not turn.done.done():
            turn.done.set_result(list(answers[at : at + len(turn.commands)]))
        at += len(turn.commands)
