"""Requests that begin alike, on a worker core over the torch engine: what comes from the cache changes no token."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.messages import Assign
from shared.types import JobSeq, RequestId, RequestSpec, SamplingParams, WorkerId, WorkerRef
from tests.parity.conftest import EngineOf
from tests.support.tiny_models import WINDOW, Reference, prompt_of
from workers.core import WorkerCore
from workers.engine import Engine
from workers.events import Assigned, Emit, Launch, StepDone, WorkerCommand
from workers.settings import WorkerSettings

COUNT = 8
SHARED = prompt_of(150, salt=5)
"""Nine whole blocks, and a bit."""
ENDS = (1, 10, WINDOW, 40, 100)
TOLERANCE = 1e-4


class Desk:
    """A core over an engine, without a shell: what is launched is computed at once."""

    def __init__(self, engine: Engine, *, prefix_cache: bool, total_blocks: int) -> None:
        settings = WorkerSettings(
            ref=WorkerRef(WorkerId("w"), "1"),
            fingerprint=engine.kv.fingerprint,
            block_tokens=engine.block_tokens,
            total_blocks=total_blocks,
            token_budget=48,
            max_sequences=8,
            max_model_tokens=engine.max_model_tokens,
            prefix_cache=prefix_cache,
        )
        self.engine, self.core = engine, WorkerCore(settings)
        self.tokens: dict[RequestId, list[int]] = {}
        self.logprobs: dict[RequestId, list[float]] = {}
        self.cached: dict[RequestId, int] = {}
        self.shared = 0
        """Steps in which two sequences had a block in common."""

    def ask(self, *prompts: tuple[int, ...], salt: str = "") -> list[RequestId]:
        """All at once, to their ends."""
        names = [RequestId(f"r{len(self.tokens) + at}") for at in range(len(prompts))]
        waiting: list[WorkerCommand] = []
        for number, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
            spec = RequestSpec(name, "tiny", prompt, SamplingParams(COUNT, temperature=0.0, ignore_eos=True), 0, salt)
            self.tokens[name], self.logprobs[name], self.cached[name] = [], [], 0
            waiting += self.core.handle(Assigned(Assign(JobSeq(1, number), name, 1, len(prompt)), spec), 0.0)
        while waiting:
            waiting = [after for command in waiting for after in self._carry_out(command)]
            self.core.check()
        return names

    def _carry_out(self, command: WorkerCommand) -> list[WorkerCommand]:
        if isinstance(command, Emit):
            self.tokens[command.request_id] += command.token_ids
            self.logprobs[command.request_id] += command.logprobs
            self.cached[command.request_id] += command.cached_tokens
        if not isinstance(command, Launch):
            return []
        tables = [set(sequence.blocks) for sequence in self.core.sequences]
        self.shared += len(set().union(*tables)) < sum(map(len, tables))
        self.engine.launch(command.plan)
        result = self.engine.collect()
        return self.core.handle(StepDone(result.step, result.token_ids, result.logprobs, result.seconds), 0.0)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma3_text"])
def test_tokens_are_the_references_with_and_without_the_cache(
    model_type: str, engine_of: EngineOf, checkpoint_of: Callable[[str], Reference]
) -> None:
    """One after the other, at once, and in a cache that is too small for all: full, sliding and mixed windows."""
    engine, truth = engine_of(model_type, 16), checkpoint_of(model_type)
    prompts = [SHARED + prompt_of(end, salt=end) for end in ENDS]
    answers = {prompt: truth.greedy(prompt, COUNT) for prompt in prompts}
    logprobs = {prompt: truth.logprobs([*prompt, *answers[prompt]], len(prompt)) for prompt in prompts}
    for prefix_cache, total_blocks in ((False, 64), (True, 64), (True, 24)):
        desk = Desk(engine, prefix_cache=prefix_cache, total_blocks=total_blocks)
        names = desk.ask(prompts[0]) + desk.ask(*prompts[1:]) + desk.ask(prompts[-1]) + desk.ask(prompts[-1], salt="another tenant")
        for name, prompt in zip(names, [*prompts, prompts[-1], prompts[-1]], strict=True):
            assert desk.tokens[name] == answers[prompt]
            assert desk.logprobs[name] == pytest.approx(logprobs[prompt], abs=TOLERANCE)
        found = [desk.cached[name] for name in names]
        assert (found[0], found[-1]) == (0, 0), "nobody computed it before, or only another tenant did"
        assert bool(desk.shared) is prefix_cache
        if total_blocks == 64:
            assert found[1:-1] == ([144] * 4 + [240] if prefix_cache else [0] * 5)


def test_a_conversation_finds_its_own_answers(engine_of: EngineOf, checkpoint_of: Callable[[str], Reference]) -> None:
    """Each turn is the last prompt, its answer and a few words more: KV that decodes wrote is as good as a prefill's."""
    truth, desk = checkpoint_of("llama"), Desk(engine_of("llama", 16), prefix_cache=True, total_blocks=64)
    prompt = prompt_of(40)
    for turn in range(6):
        (name,) = desk.ask(prompt)
        assert desk.tokens[name] == truth.greedy(prompt, COUNT)
        assert desk.cached[name] == (0 if not turn else (len(prompt) - 6) // 16 * 16)
        prompt = (*prompt, *desk.tokens[name], *prompt_of(5, salt=turn))
