"""The engine protocol: flat plans in, sampled tokens out; KV bytes out and in by canonical granules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from shared.types import BlockId, SamplingParams, TokenSpan

Int32 = npt.NDArray[np.int32]
TopLogprobs = tuple[tuple[int, float], ...]
"""The likeliest `(id, logprob)`, best first; among equals the lower id."""


@dataclass(frozen=True, slots=True)
class KVSpec:
    """What one token's KV is, as it goes over the wire.

    The wire layout of one granule is `[layer][K then V][64 tokens][kv_head][head_dim]` in `dtype`, granules in order. Where
    layers or K and V differ in shape, `shapes` says each layer's own; `kv_heads` and `head_dim` are then the first keys'.
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
    shapes: tuple[tuple[int, int, int], ...] = ()
    """`(kv_heads, key width, value width)` of every layer; empty if all are `(kv_heads, head_dim, head_dim)`."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Every token of a choice before the sampled one, for its penalties: a function of the tokens alone, on any worker."""

    token_ids: Int32
    """[N]: the prompt, then what was generated, as far as it is known."""
    num_prompt: int
    pending: int = -1
    """Position in the previous plan's `samples` of the one generated token that is not known yet, -1 if all are."""


class Sample(NamedTuple):
    """One row to sample: `row` indexes the plan's flat tokens; `(seed, choice, index)` names the noise."""

    row: int
    params: SamplingParams
    choice: int
    index: int  # type: ignore[assignment]  # as everywhere; nobody looks for a field in it
    """Index of the sampled token among the choice's generated tokens."""
    history: History | None = None
    """Given where `params` has penalties or a grammar."""
    allowed: Int32 | None = None
    """[ceil(V / 32)]: bit `v % 32` of word `v // 32` is set where the grammar allows token `v`; None: all are."""


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
    """`token_ids[i]` and `logprobs[i]` answer `plan.samples[i]`; log-probabilities are of the model's raw logits."""

    step: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    seconds: float
    top_logprobs: tuple[TopLogprobs, ...] = ()
    """Per sample, empty where not asked for; nothing at all if nobody asked."""
    computing_s: float = 0.0
    """Of `seconds`, how long the step's thread held a processor: what it would have taken alone on this machine. 0: not known."""


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
