"""`headstart worker` with an engine that computes nothing and writes down when it emitted each token.

The stamps stand in a file that the benchmark maps too: `[0]` is the seconds a step shall take (read at each step, so that the
benchmark sets the pace while it runs), then, for stream `seed` and token `index`, `[1 + seed * TOKENS + index]` is the
`CLOCK_MONOTONIC` second of its emission.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cli.main import main
from shared.errors import EngineError
from shared.types import BlockId, TokenSpan
from workers import process
from workers.engine import StepPlan, StepResult
from workers.fake_engine import FakeModel

TOKENS = 16384
"""Most tokens of one stream."""
BLOCKS = 131072
"""So many that the reserved length of every stream has room."""
STAMPS_VARIABLE = "HEADSTART_BENCH_STAMPS"
WORDS = tuple(range(300, 364))
"""Token ids of the demo model's tokenizer that are whole ASCII text each: every token becomes an event."""

Stamps = npt.NDArray[np.float64]


def word(seed: int, index: int) -> int:
    """The token id that stream `seed` is answered at `index`."""
    return WORDS[(seed * 7 + index) % len(WORDS)]


def open_stamps(path: Path, streams: int = 0) -> Stamps:
    """[1 + streams * TOKENS], mapped; made anew if `streams` is given."""
    if streams:
        return np.memmap(path, dtype=np.float64, mode="w+", shape=(1 + streams * TOKENS,))
    return np.memmap(path, dtype=np.float64, mode="r+")


class StampedEngine:
    """An `Engine` whose steps sleep as long as the benchmark says."""

    def __init__(self, model: FakeModel, block_tokens: int, total_blocks: int, stamps: Stamps) -> None:
        self.kv = model.kv
        self.block_tokens = block_tokens
        self.total_blocks = total_blocks
        self.max_model_tokens = model.max_model_tokens
        self.eos_token_ids = model.eos_token_ids
        self._stamps = stamps
        self._launched: deque[StepPlan] = deque()

    def launch(self, plan: StepPlan) -> None:
        self._launched.append(plan)

    def collect(self) -> StepResult:
        plan = self._launched.popleft()
        seconds = float(self._stamps[0])
        if seconds:
            time.sleep(seconds)
        at = [1 + sample.params.seed * TOKENS + sample.index for sample in plan.samples]
        tokens = tuple(word(sample.params.seed, sample.index) for sample in plan.samples)
        self._stamps[at] = time.monotonic()
        return StepResult(plan.step, tokens, (-1.0,) * len(tokens), seconds)

    def gather(self, blocks: tuple[BlockId, ...], span: TokenSpan, out: memoryview) -> None:
        raise EngineError("no KV here")

    def scatter(self, blocks: tuple[BlockId, ...], span: TokenSpan, data: memoryview) -> None:
        raise EngineError("no KV here")

    def close(self) -> None:
        self._launched.clear()


def build_engine(settings: process.WorkerProcessSettings) -> StampedEngine:
    config = json.loads((settings.model / "config.json").read_text())
    model = FakeModel(config["vocab_size"], frozenset({config["eos_token_id"]}), config["max_position_embeddings"])
    return StampedEngine(model, settings.block_tokens, BLOCKS, open_stamps(Path(os.environ[STAMPS_VARIABLE])))


if __name__ == "__main__":
    process.build_engine = build_engine
    main()
