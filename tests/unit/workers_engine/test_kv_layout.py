"""The wire layout is canonical: what is in a cache decides the bytes, block size and place do not."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from shared.errors import ConfigError, EngineError
from shared.types import GRANULE_TOKENS, BlockId, TokenSpan
from workers.engine import KVSpec
from workers.kv_layout import KVLayer, granule_bytes, kv_spec
from workers.paged_cache import PagedCache, fit_blocks

CPU = torch.device("cpu")
LAYERS = [KVLayer(kv_heads=2, head_dim=4, window=None), KVLayer(kv_heads=2, head_dim=4, window=8), KVLayer(2, 4)]
TOKENS = 4 * GRANULE_TOKENS


def spec(wire_dtype: str = "float32", weights: bytes = b"w", theta: float = 1e4, layers: list[KVLayer] = LAYERS) -> KVSpec:
    return kv_spec(layers, wire_dtype, weights, {"rope": [{"rope_theta": theta}]})


def filled(block_tokens: int, *, scattered: bool, dtype: torch.dtype = torch.float32, wire_dtype: str = "float32") -> Filled:
    return Filled(block_tokens, scattered, dtype, wire_dtype)


class Filled:
    """A cache in which one sequence of `TOKENS` tokens holds a value that names its place, and all else is NaN."""

    def __init__(self, block_tokens: int, scattered: bool, dtype: torch.dtype, wire_dtype: str) -> None:
        self.kv = spec(wire_dtype)
        count = TOKENS // block_tokens
        self.cache = PagedCache(self.kv, block_tokens, 2 * count, dtype, CPU)
        self.cache.data.fill_(torch.nan)
        ids = random.Random(block_tokens).sample(range(2 * count), count) if scattered else list(range(3, 3 + count))
        self.blocks = tuple(BlockId(block) for block in ids)

    def write(self) -> Filled:
        for layer in range(self.kv.layers):
            for kind, plane in enumerate(self.cache.slots(layer)):
                for position in range(TOKENS):
                    plane[self.slot(position)] = expected(layer, kind, position)
        return self

    def slot(self, position: int) -> int:
        return self.blocks[position // self.cache.block_tokens] * self.cache.block_tokens + position % self.cache.block_tokens

    def gather(self, span: TokenSpan) -> bytes:
        out = bytearray(len(span) * self.kv.bytes_per_token)
        self.cache.gather(self.blocks, span, memoryview(out))
        return bytes(out)


def expected(layer: int, kind: int, position: int) -> torch.Tensor:
    """`[kv_heads, head_dim]` of integers up to 256, exact in every dtype."""
    return torch.arange(8.0).view(2, 4) + 8 * (position * 7 // 3 % 8) + 64 * kind + 128 * (layer - 1)


def canonical(span: TokenSpan) -> bytes:
    """The documented layout, element by element: `[granule][layer][K then V][64 tokens][kv_head][head_dim]`."""
    rows = [
        expected(layer, kind, position).numpy()
        for start in range(span.start, span.stop, GRANULE_TOKENS)
        for layer in range(3)
        for kind in (0, 1)
        for position in range(start, start + GRANULE_TOKENS)
    ]
    return np.stack(rows).astype(np.float32).tobytes()


SPAN = TokenSpan(GRANULE_TOKENS, 3 * GRANULE_TOKENS)


@pytest.mark.parametrize("block_tokens", [1, 16, 32, 64])
@pytest.mark.parametrize("scattered", [False, True])
def test_gather_writes_the_documented_layout(block_tokens: int, scattered: bool) -> None:
    assert filled(block_tokens, scattered=scattered).write().gather(SPAN) == canonical(SPAN)


@pytest.mark.parametrize("block_tokens", [8, 64])
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scatter_is_the_inverse_whatever_block_size_and_dtype(block_tokens: int, scattered: bool, dtype: torch.dtype) -> None:
    taken = filled(block_tokens, scattered=scattered, dtype=dtype)
    taken.cache.scatter(taken.blocks, SPAN, memoryview(canonical(SPAN)))
    assert taken.gather(SPAN) == canonical(SPAN)
    written = {taken.slot(position) for position in range(SPAN.start, SPAN.stop)}
    for layer in range(3):
        for kind, plane in enumerate(taken.cache.slots(layer)):
            assert {slot for slot in range(len(plane)) if not plane[slot].isnan().any()} == written
            for position in (SPAN.start, SPAN.start + 17, SPAN.stop - 1):
                assert plane[taken.slot(position)].equal(expected(layer, kind, position).to(dtype))


@pytest.mark.parametrize("wire_dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scattered", [False, True])
def test_the_wire_has_its_own_dtype(wire_dtype: str, dtype: torch.dtype, scattered: bool) -> None:
    given = filled(16, scattered=scattered, dtype=dtype, wire_dtype=wire_dtype).write()
    on_the_wire = np.frombuffer(given.gather(SPAN), dtype=np.int16)
    wanted = torch.frombuffer(bytearray(canonical(SPAN)), dtype=torch.float32).to(dtype).to(getattr(torch, wire_dtype))
    assert (on_the_wire == wanted.view(torch.int16).numpy()).all()
    taken = filled(64, scattered=not scattered, dtype=dtype, wire_dtype=wire_dtype)
    taken.cache.scatter(taken.blocks, SPAN, memoryview(bytearray(on_the_wire.tobytes())))
    assert taken.gather(SPAN) == on_the_wire.tobytes()


def test_an_empty_span_moves_nothing() -> None:
    cache = filled(16, scattered=False)
    assert cache.gather(TokenSpan(64, 64)) == b""
    cache.cache.scatter(cache.blocks, TokenSpan(0, 0), memoryview(b""))


@pytest.mark.parametrize(("start", "stop", "message"), [(0, 65, "whole granules"), (8, 64, "whole granules"), (0, 8 * 64, "blocks")])
def test_bad_spans_are_refused(start: int, stop: int, message: str) -> None:
    cache = filled(16, scattered=False)
    with pytest.raises(EngineError, match=message):
        cache.gather(TokenSpan(start, stop))


def test_a_payload_of_another_length_is_refused() -> None:
    cache = filled(16, scattered=False)
    with pytest.raises(EngineError, match="bytes on the wire"):
        cache.cache.scatter(cache.blocks, TokenSpan(0, 64), memoryview(bytearray(64 * cache.kv.bytes_per_token - 1)))


def test_a_block_outside_the_cache_is_refused() -> None:
    cache = filled(64, scattered=False)
    with pytest.raises(EngineError, match="within the cache"):
        cache.cache.gather((BlockId(10**6),), TokenSpan(0, 64), memoryview(bytearray(granule_bytes(cache.kv))))


def test_block_sizes_must_divide_the_granule() -> None:
    with pytest.raises(ConfigError, match="divide 64"):
        PagedCache(spec(), 24, 4, torch.float32, CPU)


def test_sizes() -> None:
    kv = spec("bfloat16")
    assert kv.bytes_per_token == 3 * 2 * 2 * 4 * 2
    assert granule_bytes(kv) == GRANULE_TOKENS * kv.bytes_per_token
    assert fit_blocks(1000, 16, 5999, CPU) == 5
    with pytest.raises(ConfigError, match="no room"):
        fit_blocks(1000, 16, 999, CPU)


def test_the_fingerprint_names_what_must_agree_and_nothing_else() -> None:
    same = spec()
    unlike = [spec("float16"), spec(weights=b"v"), spec(theta=1e6), spec(layers=LAYERS[:2]), spec(layers=[LAYERS[0]] * 3)]
    assert same.fingerprint == spec().fingerprint
    assert len({same.fingerprint, *(other.fingerprint for other in unlike)}) == 1 + len(unlike)
