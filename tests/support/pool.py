"""A pool under test: real worker processes on a real server, and a scheduler of our own beside the test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cli.children import Child
from cli.system import System
from scheduler.core import SchedulerCore
from scheduler.events import SchedulerCommand
from scheduler.loop import LoopSettings, SchedulerLoop
from scheduler.settings import SchedulerSettings
from shared.clock import SystemClock
from shared.fabric import LogHead, SubmitStatus
from shared.messages import LogEnd, LogTokens, StoryLine, Submission
from shared.processes import LOOP_ASK_AGAIN_S, cancel_all
from shared.redis_fabric import RedisFabric
from shared.types import Phase, PoolId, RequestId, RequestSpec, SamplingParams, WorkerRef
from tests.support.waiting import eventually

Ambush = Callable[[SchedulerCommand], Awaitable[None]]
"""Called with each command of the scheduler before it is carried out: the one moment that a test can choose exactly."""

ids = itertools.count()


async def _let_pass(_: SchedulerCommand) -> None: ...


class AmbushedLoop(SchedulerLoop):
    """Lets a test act at the moment of a decision, before anybody hears of it."""

    ambush: Ambush = staticmethod(_let_pass)

    async def _carry_out(self, command: SchedulerCommand) -> None:
        await self.ambush(command)
        await super()._carry_out(command)


def save_word_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer file whose every id is a word: workers need one to write text beside the ids."""
    words = {f"w{at}": at for at in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request's log says at its end."""

    request_id: RequestId
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    end: LogEnd
    story: tuple[StoryLine, ...]

    def told(self, what: str) -> list[dict[str, object]]:
        return [line.data for line in self.story if line.what == what]


@dataclass(slots=True)
class Pool:
    """Submits past the gateway, token ids in and out, and waits for ends."""

    fabric: RedisFabric
    system: System

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, system: System) -> AsyncIterator[Pool]:
        async with system:
            pool = cls(await RedisFabric.connect(system.redis_url, PoolId(system.plan.pool)), system)
            try:
                yield pool
            finally:
                await pool.fabric.disconnect()
                pool.wake_all()

    @contextlib.asynccontextmanager
    async def scheduled(self, settings: SchedulerSettings, ambush: Ambush = _let_pass) -> AsyncIterator[SchedulerLoop]:
        """A scheduler with these settings, for as long as the block lasts."""
        core = SchedulerCore(settings)
        loop = AmbushedLoop(core, self.fabric, SystemClock(), LoopSettings(f"test-{next(ids)}", renew_s=0.1, tick_s=0.05))
        loop.ambush = ambush
        running = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            await cancel_all([running], LOOP_ASK_AGAIN_S)
            core.check()

    # -- the processes

    def child(self, name: str) -> Child:
        """The latest life of a worker."""
        return [child for child in self.system.children if child.name == name][-1]

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self.child(name).process
        assert process is not None
        process.send_signal(number)

    def wake_all(self) -> None:
        """Whoever was stopped could not leave in order."""
        for child in self.system.children:
            if child.running:
                self.signal(child.name, signal.SIGCONT)

    async def kill(self, name: str) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(name, signal.SIGKILL)
        process = self.child(name).process
        assert process is not None
        await process.wait()

    async def member(self, name: str) -> WorkerRef:
        """The incarnation that joined under this name."""
        return next(info.ref for info in await self.fabric.members() if info.ref.worker == name)

    # -- requests

    async def submit(self, prompt: Sequence[int], sampling: SamplingParams) -> RequestId:
        request_id = RequestId(f"{next(ids):08d}{SystemClock().wall_ms():016x}")
        created = SystemClock().wall_ms()
        spec = RequestSpec(request_id, self.system.plan.served_model_name, tuple(prompt), sampling, created)
        await self.fabric.create_log(LogHead(spec, "{}", ""))
        answer = await self.fabric.submit(Submission(request_id, len(prompt), sampling.max_tokens, created, background=True))
        assert answer.status is SubmitStatus.ACCEPTED
        return request_id

    async def streamed(self, request_id: RequestId, count: int, timeout_s: float = 60.0) -> None:
        """Returns when at least `count` tokens are in the log and the end is not."""

        async def enough() -> bool:
            entries = [logged.entry for logged in await self.fabric.read_log(request_id)]
            assert not any(isinstance(entry, LogEnd) for entry in entries), "it ended before anybody could disturb it"
            return sum(len(entry.token_ids) for entry in entries if isinstance(entry, LogTokens)) >= count

        await eventually(enough, timeout_s)

    async def answer(self, request_id: RequestId, timeout_s: float = 60.0) -> Answer:
        async with asyncio.timeout(timeout_s):
            while True:
                entries = [logged.entry for logged in await self.fabric.read_log(request_id)]
                if entries and isinstance(entries[-1], LogEnd):
                    break
                await asyncio.sleep(0.02)
        tokens = [entry for entry in entries if isinstance(entry, LogTokens)]
        positions = [at for entry in tokens for at in range(entry.index, entry.index + len(entry.token_ids))]
        assert positions == list(range(len(positions))), "every index once and in order"
        return Answer(
            request_id,
            tuple(token for entry in tokens for token in entry.token_ids),
            tuple(value for entry in tokens for value in entry.logprobs),
            "".join(entry.text for entry in tokens),
            entries[-1],
            await eventually(lambda: self._whole_story(request_id), 30.0),
        )

    async def _whole_story(self, request_id: RequestId) -> tuple[StoryLine, ...]:
        """Empty while lines of the last attempt are still on their way: stories are written now and then, after the log."""
        story = await self.fabric.story(request_id)
        assigned = [line.data for line in story if line.what == "assigned"]
        if not assigned:
            return ()
        last = assigned[-1]
        taken = any(line.what == "taken" and line.data["attempt"] == last["attempt"] for line in story)
        moved = last["cut"] and last["source"] != last["worker"]
        pulled = any(line.what == "pulled" and line.who == last["worker"] for line in story)
        return story if taken and (pulled or not moved) else ()

    async def ask(self, prompt: Sequence[int], max_tokens: int, **sampling: object) -> Answer:
        """Greedy to exactly `max_tokens`, unless told otherwise."""
        params = SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True, **sampling})  # type: ignore[arg-type]
        answer = await self.answer(await self.submit(prompt, params))
        assert answer.end.phase is Phase.FINISHED, answer.end
        return answer
