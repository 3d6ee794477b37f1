"""A scaled piece of a trace: lengths that suit a small model, and prompts that nobody has cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.simulation.serving.trace import Arrival, clipped
from shared.types import RequestId


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a cell; `at_s` is when it is due, from the cell's start."""

    request_id: RequestId
    prompt: tuple[int, ...]
    output_tokens: int
    at_s: float


def scaled(arrivals: Sequence[Arrival], share: float, window: int) -> list[Arrival]:
    """All lengths at `share` of the trace's, so that prompt and output fit a model of `window` tokens; at least one token of each.

    An output may take up half the window: what is longer is cut, then the prompt to what is left.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share} is not in (0, 1]")
    shorter = [
        replace(one, prompt_tokens=max(1, round(one.prompt_tokens * share)), output_tokens=_output(one, share, window)) for one in arrivals
    ]
    return clipped(shorter, window)


def _output(one: Arrival, share: float, window: int) -> int:
    return min(max(1, round(one.output_tokens * share)), window // 2)


def asks(arrivals: Sequence[Arrival], vocabulary: range, name: str, seed: int) -> list[Ask]:
    """The arrivals with prompts drawn at random: two cells with other seeds share no prefix."""
    rng = np.random.default_rng(seed)
    return [
        Ask(
            RequestId(f"{name}-{at}"),
            tuple(rng.integers(vocabulary.start, vocabulary.stop, one.prompt_tokens).tolist()),
            one.output_tokens,
            one.at_s,
        )
        for at, one in enumerate(arrivals)
    ]
