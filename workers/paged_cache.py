"""The paged KV cache of one model on one device, and its way to and from the wire.

Token-major: a block is `block_tokens` rows of `[kv_head][head_dim]`, so neighbouring blocks are one contiguous view to
attend over, and a granule on the wire is, per layer, the bytes of its blocks one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from shared.errors import ConfigError, EngineError
from shared.types import GRANULE_TOKENS, BlockId, TokenSpan
from workers.device import side_stream, spare_memory
from workers.engine import KVSpec
from workers.kv_layout import check_payload, span_blocks

DEFAULT_CACHE_TOKENS = 1 << 20
"""More than this many tokens of cache only when asked for: block ledgers stay small beside a small model."""


def fit_blocks(block_bytes: int, block_tokens: int, kv_bytes: int | None, device: torch.device) -> int:
    """Blocks of `block_bytes` that fit into `kv_bytes`, or into a share of the device's free memory if None."""
    if kv_bytes is not None:
        blocks = kv_bytes // block_bytes
    else:
        blocks = min(spare_memory(device) // block_bytes, DEFAULT_CACHE_TOKENS // block_tokens)
    if blocks < 1:
        raise ConfigError(f"no room for one KV block of {block_bytes} bytes: raise kv_bytes or serve a smaller model")
    return blocks


class PagedCache:
    """K and V of `total_blocks` blocks: `data` is `[layers * 2, total_blocks, block_tokens * kv_heads * head_dim]`.

    The memory is left uninitialised, so that a CPU commits pages only as blocks are first written; nothing may read a
    slot that was never written.
    """

    def __init__(self, kv: KVSpec, block_tokens: int, total_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        if block_tokens < 1 or GRANULE_TOKENS % block_tokens:
            raise ConfigError(f"block_tokens must divide {GRANULE_TOKENS}, got {block_tokens}")
        self.kv = kv
        self.block_tokens = block_tokens
        self.total_blocks = total_blocks
        self.data = torch.empty(self._data_shape(), dtype=dtype, device=device)
        self._wire_dtype: torch.dtype = getattr(torch, kv.dtype)
        self._copies = side_stream(device)

    def _data_shape(self) -> tuple[int, ...]:
        return self.kv.layers * 2, self.total_blocks, self.block_tokens * self.kv.kv_heads * self.kv.head_dim

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one layer's K and V, `[total_blocks * block_tokens, kv_heads, head_dim]` each."""
        shape = (-1, self.kv.kv_heads, self.kv.head_dim)
        return self.data[2 * layer].view(shape), self.data[2 * layer + 1].view(shape)

    @torch.inference_mode()
    def gather(self, blocks: Sequence[BlockId], span: TokenSpan, out: memoryview) -> None:
        """See `Engine.gather`. Measured on a busy CPU: memcpy's speed for a run of blocks, three quarters of it scattered."""
        check_payload(self.kv, span, out.nbytes)
        if not len(span):
            return
        with torch.cuda.stream(self._copies):
            self._read(self._rows(blocks, span), self._wire(out, span))

    @torch.inference_mode()
    def scatter(self, blocks: Sequence[BlockId], span: TokenSpan, data: memoryview) -> None:
        """See `Engine.scatter`. On return the bytes are in the cache, whatever stream reads it next."""
        check_payload(self.kv, span, data.nbytes)
        if not len(span):
            return
        with torch.cuda.stream(self._copies):
            self._write(self._rows(blocks, span), self._wire(_writable(data), span))
        if self._copies is not None:
            self._copies.synchronize()

    def _read(self, rows: slice | torch.Tensor, wire: torch.Tensor) -> None:
        """Copies the block rows into `wire`, `[granules, values of a granule]`."""
        wire = wire.view(len(wire), len(self.data), -1)
        if isinstance(rows, slice):
            wire.copy_(self.data[:, rows].view(wire.shape[1], wire.shape[0], -1).transpose(0, 1))
        elif self._copies is not None:
            wire.copy_(self.data.index_select(1, rows).view(wire.shape[1], wire.shape[0], -1).transpose(0, 1))
        else:
            self._gather_granules(rows, wire)

    def _write(self, rows: slice | torch.Tensor, wire: torch.Tensor) -> None:
        """Copies `wire`, `[granules, values of a granule]`, into the block rows."""
        wire = wire.view(len(wire), len(self.data), -1)
        if isinstance(rows, slice):
            self.data[:, rows].view(wire.shape[1], wire.shape[0], -1).copy_(wire.transpose(0, 1))
        else:
            self._scatter_granules(rows, wire.to(self.data.device))

    def _gather_granules(self, rows: torch.Tensor, wire: torch.Tensor) -> None:
        """One pass per granule, straight into the wire where the dtypes agree: the temporary would not stay in cache."""
        source, target = self._alike(wire)
        for granule, ids in zip(target, rows.view(len(wire), -1), strict=True):
            out = granule.view(len(source), len(ids), -1)
            if source.dtype == target.dtype:
                torch.index_select(source, 1, ids, out=out)
            else:
                out.copy_(source.index_select(1, ids))

    def _scatter_granules(self, rows: torch.Tensor, wire: torch.Tensor) -> None:
        target, source = self._alike(wire)
        for granule, ids in zip(source, rows.view(len(wire), -1), strict=True):
            target.index_copy_(1, ids, granule.view(len(target), len(ids), -1).to(target.dtype))

    def _alike(self, wire: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cache and wire as 64-bit words if no value changes on the way: indexed copies of 16-bit items are slow."""
        if self.data.dtype != wire.dtype or self.data.shape[2] * self.data.itemsize % 8:
            return self.data, wire
        return self.data.view(torch.int64), wire.view(torch.int64)

    def _rows(self, blocks: Sequence[BlockId], span: TokenSpan) -> slice | torch.Tensor:
        """The block rows of `span`: a slice where the blocks follow each other."""
        ids = np.asarray(span_blocks(blocks, span, self.block_tokens), dtype=np.int64)
        if ids.min() < 0 or ids.max() >= self.total_blocks:
            raise EngineError(f"blocks {ids.tolist()} are not all within the cache of {self.total_blocks}")
        if (np.diff(ids) == 1).all():
            return slice(int(ids[0]), int(ids[-1]) + 1)
        return torch.from_numpy(ids).to(self.data.device)

    def _wire(self, payload: memoryview, span: TokenSpan) -> torch.Tensor:
        """`payload` as `[granules, values of a granule]`, on the host."""
        return torch.frombuffer(payload, dtype=self._wire_dtype).view(len(span) // GRANULE_TOKENS, -1)


def _writable(data: memoryview) -> memoryview:
    """Torch maps only writable memory: a read-only payload is copied once."""
    return memoryview(bytearray(data)) if data.readonly else data
