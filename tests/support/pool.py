"""A pool under test: real worker processes on a real server, and a scheduler of our own beside the test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cli.system import System
from scheduler.core import SchedulerCore
from scheduler.loop import LoopSettings, SchedulerLoop
from scheduler.settings import SchedulerSettings
from shared.clock import SystemClock
from shared.fabric import LogHead, SubmitStatus
from shared.messages import LogEnd, LogTokens, StoryLine, Submission
from shared.processes import cancel_all
from shared.redis_fabric import RedisFabric
from shared.types import Phase, PoolId, RequestId, RequestSpec, SamplingParams

ids = itertools.count()


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
            fabric = await RedisFabric.connect(system.redis_url, PoolId(system.plan.pool))
            try:
                yield cls(fabric, system)
            finally:
                await fabric.disconnect()

    @contextlib.asynccontextmanager
    async def scheduled(self, settings: SchedulerSettings) -> AsyncIterator[SchedulerLoop]:
        """A scheduler with these settings, for as long as the block lasts."""
        core = SchedulerCore(settings)
        loop = SchedulerLoop(core, self.fabric, SystemClock(), LoopSettings(f"test-{next(ids)}", renew_s=0.1, tick_s=0.05))
        running = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            await cancel_all([running])
            core.check()

    async def submit(self, prompt: Sequence[int], sampling: SamplingParams) -> RequestId:
        request_id = RequestId(f"{next(ids):08d}{SystemClock().wall_ms():016x}")
        created = SystemClock().wall_ms()
        spec = RequestSpec(request_id, self.system.plan.served_model_name, tuple(prompt), sampling, created)
        await self.fabric.create_log(LogHead(spec, "{}", ""))
        answer = await self.fabric.submit(Submission(request_id, len(prompt), sampling.max_tokens, created, background=True))
        assert answer.status is SubmitStatus.ACCEPTED
        return request_id

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
            await self.fabric.story(request_id),
        )

    async def ask(self, prompt: Sequence[int], max_tokens: int, **sampling: object) -> Answer:
        """Greedy to exactly `max_tokens`, unless told otherwise."""
        params = SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True, **sampling})  # type: ignore[arg-type]
        answer = await self.answer(await self.submit(prompt, params))
        assert answer.end.phase is Phase.FINISHED, answer.end
        return answer
