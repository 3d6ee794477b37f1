"""The canonical wire layout of KV, and the fingerprint that two workers must share before a byte moves.

One granule is `[layer][K then V][64 tokens][kv_head][head_dim]` in the wire dtype; granules follow each other in order.
Layers may differ in shape, and so may a layer's K and V (latent attention): each then has its own width in its own place.
Local block size, local dtype and device are not part of it: unlike workers can pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.errors import EngineError
from shared.types import GRANULE_TOKENS, BlockId, TokenSpan
from workers.engine import KVSpec

WIRE_VERSION = 1

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""The dtypes that KV can have, in a cache or on the wire, and their sizes."""


@dataclass(frozen=True, slots=True)
class KVLayer:
    """The KV of one attention layer. `window`: a query sees itself and the `window - 1` tokens before; None: all."""

    kv_heads: int
    head_dim: int
    """Width of a key, and of a value if `value_dim` says nothing else."""
    window: int | None = None
    value_dim: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(kv_heads, key width, value width)`"""
        return self.kv_heads, self.head_dim, self.head_dim if self.value_dim is None else self.value_dim


def kv_spec(layers: Sequence[KVLayer], wire_dtype: str, weights: bytes, positions: Mapping[str, object]) -> KVSpec:
    """What goes over the wire for a model with these layers.

    `weights` is a digest of the weights; `positions` holds whatever else decides a key (RoPE settings, model type).
    """
    first, shapes = layers[0], tuple(layer.shape for layer in layers)
    alike = set(shapes) == {(first.kv_heads, first.head_dim, first.head_dim)}
    return KVSpec(
        layers=len(layers),
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        dtype=wire_dtype,
        bytes_per_token=sum(heads * (key + value) for heads, key, value in shapes) * ITEM_BYTES[wire_dtype],
        fingerprint=_fingerprint(layers, wire_dtype, weights, positions),
        shapes=() if alike else shapes,
    )


def layer_shapes(kv: KVSpec) -> tuple[tuple[int, int, int], ...]:
    """`(kv_heads, key width, value width)` of every layer."""
    return kv.shapes or ((kv.kv_heads, kv.head_dim, kv.head_dim),) * kv.layers


def values_per_token(kv: KVSpec) -> int:
    """How many numbers one token's KV has."""
    return sum(heads * (key + value) for heads, key, value in layer_shapes(kv))


def granule_bytes(kv: KVSpec) -> int:
    """Bytes of one granule on the wire."""
    return GRANULE_TOKENS * kv.bytes_per_token


def span_blocks(blocks: Sequence[BlockId], span: TokenSpan, block_tokens: int) -> Sequence[BlockId]:
    """The blocks that hold `span`, a range of whole granules, of the sequence whose blocks are `blocks` in order."""
    if span.start % GRANULE_TOKENS or span.stop % GRANULE_TOKENS:
        raise EngineError(f"span [{span.start}, {span.stop}) is not whole granules of {GRANULE_TOKENS} tokens")
    if len(blocks) * block_tokens < span.stop:
        raise EngineError(f"span [{span.start}, {span.stop}) needs {span.stop // block_tokens} blocks, got {len(blocks)}")
    return blocks[span.start // block_tokens : span.stop // block_tokens]


def check_payload(kv: KVSpec, span: TokenSpan, nbytes: int) -> None:
    """Raises `EngineError` unless `nbytes` is exactly the wire size of `span`."""
    wanted = len(span) * kv.bytes_per_token
    if nbytes != wanted:
        raise EngineError(f"span [{span.start}, {span.stop}) is {wanted} bytes on the wire, the buffer has {nbytes}")


def _fingerprint(layers: Sequence[KVLayer], wire_dtype: str, weights: bytes, positions: Mapping[str, object]) -> bytes:
    facts = {
        "wire_version": WIRE_VERSION,
        "granule_tokens": GRANULE_TOKENS,
        "dtype": wire_dtype,
        "weights": weights.hex(),
        "positions": positions,
        "layers": [(*layer.shape, layer.window) for layer in layers],
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).digest()
