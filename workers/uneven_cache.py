"""The paged cache of a model whose layers, or whose keys and values, differ in shape: one plane of its own width for each."""

from __future__ import annotations

import torch

from workers.engine import KVSpec
from workers.kv_layout import layer_shapes, values_per_token
from workers.paged_cache import PagedCache


class UnevenCache(PagedCache):
    """`data` is flat: for every layer the plane of K and then of V, `[total_blocks, block_tokens * kv_heads * width]` each.

    Copies go plane by plane, so a transfer costs two copies per layer where the even cache needs one in all.
    """

    def __init__(self, kv: KVSpec, block_tokens: int, total_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(kv, block_tokens, total_blocks, dtype, device)
        self._widths = [(heads, width) for heads, key, value in layer_shapes(kv) for width in (key, value)]
        sizes = [total_blocks * block_tokens * heads * width for heads, width in self._widths]
        self._planes = [plane.view(total_blocks, -1) for plane in self.data.split_with_sizes(sizes)]

    def _data_shape(self) -> tuple[int, ...]:
        return (self.total_blocks * self.block_tokens * values_per_token(self.kv),)

    def slots(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one layer's K and V, `[total_blocks * block_tokens, kv_heads, width]` each."""
        keys, values = (self._planes[at].view(-1, *self._widths[at]) for at in (2 * layer, 2 * layer + 1))
        return keys, values

    def _read(self, rows: slice | torch.Tensor, wire: torch.Tensor) -> None:
        for plane, part in zip(self._planes, self._parts(wire), strict=True):
            part.copy_(plane[rows].view(part.shape))

    def _write(self, rows: slice | torch.Tensor, wire: torch.Tensor) -> None:
        for plane, part in zip(self._planes, self._parts(wire), strict=True):
            plane[rows] = part.to(plane.device, plane.dtype).reshape(-1, plane.shape[1])

    def _parts(self, wire: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each plane's share `[granules, 64 * kv_heads * width]` of a wire buffer."""
        per_token = wire.shape[1] // values_per_token(self.kv)
        return wire.split_with_sizes([per_token * heads * width for heads, width in self._widths], dim=1)


def cache_for(kv: KVSpec, block_tokens: int, total_blocks: int, dtype: torch.dtype, device: torch.device) -> PagedCache:
    """The cache that fits the shapes of `kv`: layers that are all alike share one tensor, and are copied by one call."""
    made = UnevenCache if kv.shapes else PagedCache
    return made(kv, block_tokens, total_blocks, dtype, device)
