"""Requests that too many crashes ended: listed, submitted anew, or dropped. Their logs are kept as long as they are."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from shared.clock import Clock
from shared.codec import decode
from shared.connection import entries_of
from shared.errors import BadRequest
from shared.fabric import SubmitStatus
from shared.messages import Submission
from shared.redis_fabric import RedisFabric
from shared.types import NO_GATEWAY, RequestId


@dataclass(frozen=True, slots=True)
class DeadLetter:
    entry_id: str
    submission: Submission

    @property
    def request_id(self) -> RequestId:
        return self.submission.request_id

    @property
    def at_ms(self) -> int:
        """When it was given up, by the server's clock."""
        return int(self.entry_id.partition("-")[0])


class DeadLetters:
    """Of one pool, over an open fabric, which its opener closes."""

    def __init__(self, fabric: RedisFabric, clock: Clock) -> None:
        self._fabric = fabric
        self._clock = clock

    async def count(self) -> int:
        return int(await self._fabric.connection.command("XLEN", self._fabric.keys.dead))

    async def all(self) -> tuple[DeadLetter, ...]:
        """The oldest first."""
        stream = self._fabric.keys.dead
        found = entries_of(await self._fabric.connection.command("XREAD", "STREAMS", stream, "0-0")).get(stream, [])
        return tuple(DeadLetter(entry_id, decode(fields[b"m"], Submission)) for entry_id, fields in found)

    async def find(self, request_id: RequestId) -> DeadLetter:
        """Raises `BadRequest` if there is none."""
        letter = next((one for one in await self.all() if one.request_id == request_id), None)
        if letter is None:
            raise BadRequest(f"no dead letter is of request {request_id}: `headstart dead-letters list` shows those there are", "id")
        return letter

    async def drop(self, letter: DeadLetter) -> None:
        await self._fabric.connection.command("XDEL", self._fabric.keys.dead, letter.entry_id)

    async def replay(self, letter: DeadLetter) -> RequestId:
        """Submits the same prompt and parameters as a background request of the same owner; its new id. Then the letter goes.

        Raises `BadRequest` if the prompt is not kept any more, or the pool takes no more requests now.
        """
        head = await self._fabric.head(letter.request_id)
        if head is None:
            raise BadRequest(f"the prompt of request {letter.request_id} is not kept any more: drop its dead letter", "id")
        request_id, now_ms = RequestId(secrets.token_hex(12)), self._clock.wall_ms()
        spec = replace(head.spec, request_id=request_id, created_ms=now_ms)
        await self._fabric.create_log(replace(head, spec=spec, fence=1))
        submission = replace(letter.submission, request_id=request_id, created_ms=now_ms, background=True, gateway=NO_GATEWAY)
        answer = await self._fabric.submit(submission)
        if answer.status is not SubmitStatus.ACCEPTED:
            raise BadRequest(f"request {letter.request_id} was refused ({answer.status}): try again in {answer.retry_after_s:.0f} s", "id")
        await self.drop(letter)
        return request_id
