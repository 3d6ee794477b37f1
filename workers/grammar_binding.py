"""What an engine must know of grammars: who fills in which tokens a sample may take. No library here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from shared.errors import EngineError
from workers.engine import Int32, Sample

Previous = Callable[[], Sequence[int]]
"""Waits for the tokens that the plan before sampled, and gives them."""


class GrammarBinder(Protocol):
    """Turns grammars into masks, beside the thread that asks."""

    def bind(self, samples: Sequence[Sample], previous: Previous) -> Future[tuple[Sample, ...]] | None:
        """The samples with their `allowed` filled in, to come; None where no sample has a grammar. Fails with `EngineError`."""
        ...

    def close(self) -> None: ...


class NoGrammars:
    """Of an engine that was given no tokenizer: refuses what it would otherwise answer unconstrained."""

    def bind(self, samples: Sequence[Sample], previous: Previous) -> Future[tuple[Sample, ...]] | None:
        if any(sample.params.grammar for sample in samples):
            raise EngineError("this engine was given no tokenizer: it cannot follow a grammar")
        return None

    def close(self) -> None:
        """Nothing is held."""


def generated(sample: Sample, previous: Previous) -> Int32:
    """The tokens of a choice before the sampled one."""
    history = sample.history
    if history is None:
        raise EngineError("a sample with a grammar has no history")
    known = history.token_ids[history.num_prompt :]
    return known if history.pending < 0 else np.append(known, np.int32(previous()[history.pending])).astype(np.int32)
