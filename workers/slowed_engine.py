"""An engine made slower by a factor: a stand-in for a weaker device where only one kind is at hand.

It sleeps, so that it takes no cycles from the faster worker beside it. Answers and bytes are the inner engine's.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from shared.types import BlockId, TokenSpan
from workers.engine import Engine, StepPlan, StepResult


class SlowedEngine:
    """Every step takes `factor` (at least 1) times as long."""

    def __init__(self, inner: Engine, factor: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self._inner = inner
        self._factor = factor
        self._sleep = sleep
        self.kv = inner.kv
        self.block_tokens = inner.block_tokens
        self.total_blocks = inner.total_blocks
        self.max_model_tokens = inner.max_model_tokens
        self.eos_token_ids = inner.eos_token_ids

    def launch(self, plan: StepPlan) -> None:
        self._inner.launch(plan)

    def collect(self) -> StepResult:
        result = self._inner.collect()
        self._sleep(result.seconds * (self._factor - 1))
        return dataclasses.replace(result, seconds=result.seconds * self._factor, computing_s=result.computing_s * self._factor)

    def gather(self, blocks: tuple[BlockId, ...], span: TokenSpan, out: memoryview) -> None:
        self._inner.gather(blocks, span, out)

    def scatter(self, blocks: tuple[BlockId, ...], span: TokenSpan, data: memoryview) -> None:
        self._inner.scatter(blocks, span, data)

    def close(self) -> None:
        self._inner.close()
