"""Layers and planes of unlike widths: on the wire each has its own width in its own place, whatever the blocks are."""

from __future__ import annotations

import pytest
import torch

from shared.types import GRANULE_TOKENS, BlockId, TokenSpan
from workers.kv_layout import KVLayer, kv_spec
from workers.paged_cache import PagedCache
from workers.uneven_cache import UnevenCache, cache_for

CPU = torch.device("cpu")
LAYERS = [KVLayer(2, 6, value_dim=4), KVLayer(1, 8, window=24), KVLayer(3, 2, value_dim=5)]
PLANES = [(2, 6), (2, 4), (1, 8), (1, 8), (3, 2), (3, 5)]
"""`(kv_heads, width)` in wire order."""
SPEC = kv_spec(LAYERS, "float32", b"w", {})
TOKENS = 4 * GRANULE_TOKENS
SPAN = TokenSpan(GRANULE_TOKENS, 3 * GRANULE_TOKENS)


def value(plane: int, position: int) -> torch.Tensor:
    """`[kv_heads, width]` of small integers, exact in every dtype."""
    heads, width = PLANES[plane]
    return (torch.arange(float(heads * width)) + 7 * plane + 3 * position % 97).view(heads, width)


def canonical() -> bytes:
    granules = range(SPAN.start, SPAN.stop, GRANULE_TOKENS)
    parts = [value(p, at).flatten() for start in granules for p in range(len(PLANES)) for at in range(start, start + GRANULE_TOKENS)]
    return torch.cat(parts).numpy().tobytes()


def made(block_tokens: int, scattered: bool, dtype: torch.dtype) -> tuple[PagedCache, tuple[BlockId, ...]]:
    count = TOKENS // block_tokens
    cache = cache_for(SPEC, block_tokens, 2 * count, dtype, CPU)
    cache.data.fill_(torch.nan)
    return cache, tuple(BlockId(block) for block in (range(2 * count - 1, 0, -2) if scattered else range(count)))


def planes(cache: PagedCache) -> list[torch.Tensor]:
    return [plane for layer in range(len(LAYERS)) for plane in cache.slots(layer)]


def slot(cache: PagedCache, blocks: tuple[BlockId, ...], position: int) -> int:
    return blocks[position // cache.block_tokens] * cache.block_tokens + position % cache.block_tokens


@pytest.mark.parametrize("block_tokens", [16, 64])
@pytest.mark.parametrize("scattered", [False, True])
def test_gather_writes_every_plane_in_its_place(block_tokens: int, scattered: bool) -> None:
    cache, blocks = made(block_tokens, scattered, torch.float32)
    for number, plane in enumerate(planes(cache)):
        for position in range(TOKENS):
            plane[slot(cache, blocks, position)] = value(number, position)
    out = bytearray(len(SPAN) * SPEC.bytes_per_token)
    cache.gather(blocks, SPAN, memoryview(out))
    assert bytes(out) == canonical()


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scatter_fills_what_the_span_holds_and_nothing_else(scattered: bool, dtype: torch.dtype) -> None:
    cache, blocks = made(32, scattered, dtype)
    cache.scatter(blocks, SPAN, memoryview(canonical()))
    written = {slot(cache, blocks, position) for position in range(SPAN.start, SPAN.stop)}
    for number, plane in enumerate(planes(cache)):
        assert {at for at in range(len(plane)) if not plane[at].isnan().any()} == written
        for position in (SPAN.start, SPAN.stop - 1):
            assert plane[slot(cache, blocks, position)].equal(value(number, position).to(dtype))


def test_layers_that_are_alike_share_one_tensor() -> None:
    alike = kv_spec([KVLayer(2, 4), KVLayer(2, 4, value_dim=4, window=8)], "float32", b"w", {})
    assert alike.shapes == ()
    assert type(cache_for(alike, 16, 2, torch.float32, CPU)) is PagedCache
    assert type(cache_for(SPEC, 16, 2, torch.float32, CPU)) is UnevenCache
    assert SPEC.bytes_per_token == 4 * sum(heads * width for heads, width in PLANES)
