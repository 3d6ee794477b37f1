"""The engine protocol: flat plans in, sampled tokens out; KV bytes out and in by canonical granules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.types import BlockId, SamplingParams, TokenSpan

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class KVSpec:
    """What one token's KV is, as it goes over the wire.

    The wire layout of one granule is `[layer][K then V][64 tokens][kv_head][head_dim]` in `dtype`, granules in order.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    """`float32`, `bfloat16` or `float16`; of the wire, which may differ from the cache's."""
    bytes_per_token: int
    """`layers * 2 * kv_heads * head_dim * itemsize`, or what a fake engine moves."""
    fingerprint: bytes
    """Digest of weights, position settings, layer groups, wire dtype and wire version. Not of block size or device."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to sample: `row` indexes the plan's flat tokens; `(seed, choice, index)` names the noise."""

    row: int
    params: SamplingParams
    choice: int
    index: int
    """Index of the sampled token among the choice's generated tokens."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step over `T` tokens of `S` sequences. Arrays are int32 and C-contiguous.

    A depth-2 pipeline plans step k+1 while k runs: where `inputs[t] >= 0`, token `t` is the one that the previous plan
    samples at position `inputs[t]` of its `samples`, and `token_ids[t]` is ignored.
    """

    step: int
    token_ids: Int32
    """[T]"""
    inputs: Int32
    """[T], -1 where the token is known."""
    positions: Int32
    """[T]"""
    slots: Int32
    """[T]: `block * block_tokens + offset` where this token's K and V go."""
    starts: Int32
    """[S + 1]: sequence s has flat tokens `[starts[s], starts[s + 1])`."""
    contexts: Int32
    """[S]: tokens in the cache of sequence s after this step."""
    block_tables: Int32
    """[S, B]: blocks of sequence s in order, padded with -1."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class StepResult:
    """`token_ids[i]` and `logprobs[i]` answer `plan.samples[i]`; `logprobs` are of the model before temperature."""

    step: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    seconds: float


class Engine(Protocol):
    """One model on one device.

    `launch` and `collect` are called by one thread, in order, at most two plans outstanding. `gather` and `scatter` may be
    called by another thread at the same time: they touch only blocks that no running plan writes.
    """

    kv: KVSpec
    block_tokens: int
    total_blocks: int
    max_model_tokens: int
    eos_token_ids: frozenset[int]

    def launch(self, plan: StepPlan) -> None: ...

    def collect(self) -> StepResult:
        """Waits for the oldest launched plan. Raises `EngineError` if it failed."""
        ...

    def gather(self, blocks: tuple[BlockId, ...], span: TokenSpan, out: memoryview) -> None:
        """Writes the KV of `span` (whole granules) of the sequence whose blocks these are into `out`, in wire layout."""
        ...

    def scatter(self, blocks: tuple[BlockId, ...], span: TokenSpan, data: memoryview) -> None:
        """The inverse of `gather`."""
        ...

    def close(self) -> None: ...
