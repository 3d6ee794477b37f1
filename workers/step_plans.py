"""Step plans written by hand: for the load-time probe, the profiler and tests. Serving plans come from batching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.types import SamplingParams
from workers.engine import History, Sample, StepPlan

GREEDY = SamplingParams(max_tokens=1, temperature=0.0)


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one sequence at positions `[start, start + len(tokens))`, whose KV goes into `blocks`.

    Of its own rows, those in `sampled` are sampled. `inputs`, if given, has one reference to the previous plan's samples
    per token, -1 where the token is known.
    """

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    sampled: Sequence[int] = ()
    params: SamplingParams = GREEDY
    index: int = 0
    inputs: Sequence[int] = ()
    choice: int = 0
    history: History | None = None
    """For the penalties in `params`."""


def write_plan(step: int, pieces: Sequence[Piece], block_tokens: int) -> StepPlan:
    """The plan that runs `pieces` in their order; samples are in the order of pieces and of rows."""
    lengths = [len(piece.tokens) for piece in pieces]
    starts = np.cumsum([0, *lengths], dtype=np.int32)
    positions = [np.arange(piece.start, piece.start + len(piece.tokens)) for piece in pieces]
    return StepPlan(
        step=step,
        token_ids=_int32([token for piece in pieces for token in piece.tokens]),
        inputs=_int32([ref for piece in pieces for ref in piece.inputs or [-1] * len(piece.tokens)]),
        positions=_int32(np.concatenate(positions)),
        slots=_int32(np.concatenate([_slots(piece, where, block_tokens) for piece, where in zip(pieces, positions, strict=True)])),
        starts=starts,
        contexts=_int32([piece.start + n for piece, n in zip(pieces, lengths, strict=True)]),
        block_tables=_tables(pieces),
        samples=tuple(
            Sample(int(first) + row, piece.params, piece.choice, piece.index, piece.history)
            for first, piece in zip(starts, pieces, strict=False)
            for row in piece.sampled
        ),
    )


def _slots(piece: Piece, positions: np.typing.NDArray[np.int64], block_tokens: int) -> np.typing.NDArray[np.int64]:
    slots: np.typing.NDArray[np.int64] = np.asarray(piece.blocks)[positions // block_tokens] * block_tokens + positions % block_tokens
    return slots


def _tables(pieces: Sequence[Piece]) -> np.typing.NDArray[np.int32]:
    tables = np.full((len(pieces), max(len(piece.blocks) for piece in pieces)), -1, dtype=np.int32)
    for row, piece in enumerate(pieces):
        tables[row, : len(piece.blocks)] = piece.blocks
    return tables


def _int32(values: object) -> np.typing.NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)
