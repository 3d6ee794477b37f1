"""The load: requests submitted through the fabric when they are due, each token's arrival noted.

Through the fabric and not the gateway: a gateway would take CPU beside the workers and is the same for every policy. What a gateway
learns by the hints is what is learnt here, when a gateway would learn it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from benchmarks.balance_trace import Ask
from shared.errors import HeadstartError
from shared.fabric import Grown, LoggedEntry, LogHead, SubmitStatus
from shared.messages import LogEnd, LogTokens, Submission
from shared.redis_fabric import RedisFabric
from shared.types import Phase, RequestId, RequestSpec, SamplingParams

MODEL = "bench"
START = "0-0"
HEADS_AT_ONCE = 32


@dataclass(slots=True)
class Answer:
    """What came of one request. Times are seconds of the monotonic clock."""

    ask: Ask
    due: float = 0.0
    submitted: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When tokens came, and how many at once."""
    position: str = START
    ended: Phase | None = None

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.arrivals)

    @property
    def ttft_s(self) -> float:
        """From when it was due, not from when a late generator sent it."""
        return self.arrivals[0][0] - self.due

    @property
    def gaps_s(self) -> list[float]:
        """Between consecutive tokens; tokens that come together share their gap."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [(now - before) / count for (before, _), (now, count) in pairs for _ in range(count)]

    def hear(self, logged: Sequence[LoggedEntry], now: float) -> None:
        for one in logged:
            self.position = one.entry_id
            if isinstance(one.entry, LogTokens):
                self.arrivals.append((now, len(one.entry.token_ids)))
            elif isinstance(one.entry, LogEnd):
                self.ended = one.entry.phase


class Load:
    """One cell's requests, from the first submission to the last end."""

    def __init__(self, fabric: RedisFabric, asks: Sequence[Ask]) -> None:
        self._fabric = fabric
        self._open = {ask.request_id: Answer(ask) for ask in asks}
        self._answers = tuple(self._open.values())
        self._listening = asyncio.Event()

    async def run(self, timeout_s: float) -> tuple[Answer, ...]:
        """Raises `HeadstartError` if a request is refused, fails, is not answered in full, or is not answered in time."""
        for at in range(0, len(self._answers), HEADS_AT_ONCE):
            await asyncio.gather(*(self._fabric.create_log(_head(one.ask)) for one in self._answers[at : at + HEADS_AT_ONCE]))
        try:
            async with asyncio.timeout(timeout_s):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen())
                    await self._listening.wait()
                    group.create_task(self._submit_all())
        except TimeoutError:
            raise HeadstartError(f"{len(self._open)} of {len(self._answers)} requests had no end after {timeout_s:.0f} s") from None
        self._check()
        return self._answers

    async def _submit_all(self) -> None:
        began = time.monotonic()
        for one in self._answers:
            one.due = began + one.ask.at_s
            await asyncio.sleep(max(0.0, one.due - time.monotonic()))
            one.submitted = time.monotonic()
            answer = await self._fabric.submit(_submission(one.ask))
            if answer.status is not SubmitStatus.ACCEPTED:
                raise HeadstartError(f"{one.ask.request_id} was refused: {answer.status}")

    async def _listen(self) -> None:
        async with aclosing(self._fabric.wakeups(self._open)) as wakeups:
            async for news in wakeups:
                now = time.monotonic()
                for grown in news:
                    await self._grew(grown, now)
                if not news:
                    await self._read(list(self._open))
                    self._listening.set()
                if not self._open:
                    return

    async def _grew(self, grown: Grown, now: float) -> None:
        answer = self._open.get(grown.request_id)
        if answer is None:
            return
        if grown.entries and grown.after == answer.position:
            self._hear(grown.request_id, grown.entries, now)
        else:
            await self._read([grown.request_id])

    async def _read(self, request_ids: list[RequestId]) -> None:
        """What a hint did not bring is in the log."""
        after = {request_id: self._open[request_id].position for request_id in request_ids}
        for request_id, entries in (await self._fabric.read_logs(after)).items():
            self._hear(request_id, entries, time.monotonic())

    def _hear(self, request_id: RequestId, entries: Sequence[LoggedEntry], now: float) -> None:
        answer = self._open[request_id]
        answer.hear(entries, now)
        if answer.ended:
            del self._open[request_id]

    def _check(self) -> None:
        for one in self._answers:
            if one.ended is not Phase.FINISHED or one.tokens != one.ask.output_tokens:
                raise HeadstartError(f"{one.ask.request_id} ended {one.ended} after {one.tokens} of {one.ask.output_tokens} tokens")


def _head(ask: Ask) -> LogHead:
    sampling = SamplingParams(ask.output_tokens, temperature=0.0, ignore_eos=True)
    return LogHead(RequestSpec(ask.request_id, MODEL, ask.prompt, sampling, time.time_ns() // 1_000_000), api="", owner_key="")


def _submission(ask: Ask) -> Submission:
    """In the background: no listener has to beat for it."""
    return Submission(ask.request_id, len(ask.prompt), ask.output_tokens, time.time_ns() // 1_000_000, background=True)
