"""Our attention function: writes K and V into the paged cache, attends per sequence through its block table.

It is registered under `NAME` in transformers' `AttentionInterface`. No mask is registered for it: transformers then
builds none, which also spares its search for packed sequences, a device synchronisation in every forward. The whole
packed batch is `[1, T]`; which tokens belong together is in the `StepLayout` of the running step alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from transformers import AttentionInterface

from shared.errors import ModelRefused
from workers.kv_layout import KVLayer
from workers.paged_cache import PagedCache
from workers.step_layout import Chunk, StepLayout

NAME = "headstart"
LAYER = "headstart_layer"
"""The attribute by which an attention module finds its `PagedLayer`."""

HARMLESS_ARGUMENTS = frozenset(
    {
        "position_ids",
        "cache_position",
        "position_embeddings",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
    }
)
"""What models pass along that changes nothing here: positions are already in the keys, the cache is ours, the rest asks for extras."""
NAMED_REFUSALS = {"s_aux": "attention sinks", "position_bias": "a position bias"}


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """An attention module of a model, and the KV that it keeps."""

    module: torch.nn.Module
    kv: KVLayer


class PagedAttention:
    """A model's attention `modules`, in order, made to work on one cache; `step` is the layout of the running forward."""

    def __init__(self, cache: PagedCache, layers: Sequence[AttentionLayer]) -> None:
        self.cache = cache
        self.step: StepLayout | None = None
        for index, layer in enumerate(layers):
            setattr(layer.module, LAYER, PagedLayer(self, index, layer.kv.window))


class PagedLayer:
    """One layer's K and V, `[slots, kv_heads, head_dim]` each."""

    def __init__(self, attention: PagedAttention, index: int, window: int | None) -> None:
        self._attention = attention
        self._window = window
        self._keys, self._values = attention.cache.slots(index)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
        """`query` is `[T, heads, head_dim]`, `key` and `value` are `[T, kv_heads, head_dim]`; the answer is like `query`."""
        step = self._attention.step
        assert step is not None, "a forward outside of a step"
        self._keys.index_copy_(0, step.slots, key)
        self._values.index_copy_(0, step.slots, value)
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for chunk in step.chunks:
            out[chunk.start : chunk.stop] = self._attend_chunk(query[chunk.start : chunk.stop], chunk, step, scale, softcap)
        for group in step.groups:
            out[group.rows] = self._attend_decodes(query[group.rows], *step.decode_slots(group, self._window), scale, softcap)
        return out

    def _attend_chunk(self, query: torch.Tensor, chunk: Chunk, step: StepLayout, scale: float, softcap: float | None) -> torch.Tensor:
        """One sequence: `query` `[n, heads, head_dim]` over a view of its context, or a copy if its blocks are scattered.

        Heads that share a KV head become rows of a decode, and else a batch dimension over which K and V are broadcast.
        """
        where = step.context_slots(chunk, self._window)
        keys, values = (kv[where].transpose(0, 1) for kv in (self._keys, self._values))
        n, heads, head_dim = query.shape
        grouped = query.view(n, len(keys), -1, head_dim)
        if n == 1:
            return dot_product(grouped, keys[None], values[None], None, False, scale, softcap).reshape(1, heads, head_dim)
        grouped = grouped.permute(2, 1, 0, 3)
        keys, values = (kv.expand(len(grouped), *kv.shape) for kv in (keys, values))
        out = dot_product(grouped, keys, values, step.chunk_mask(chunk, self._window), True, scale, softcap)
        return out.permute(2, 1, 0, 3).reshape(n, heads, head_dim)

    def _attend_decodes(
        self, query: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None
    ) -> torch.Tensor:
        """Decodes together: `query` `[S, heads, head_dim]` over contexts gathered side by side from `slots` `[S, C]`."""
        keys, values = (self._gather(kv, slots) for kv in (self._keys, self._values))
        grouped = query.view(len(query), keys.shape[1], -1, query.shape[-1])
        return dot_product(grouped, keys, values, mask, False, scale, softcap).reshape(query.shape)

    @staticmethod
    def _gather(kv: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """`[S, kv_heads, C, head_dim]`"""
        return kv.index_select(0, slots.view(-1)).view(*slots.shape, *kv.shape[1:]).transpose(1, 2)


def dot_product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Softmax attention over the last two dimensions; without a mask, `causal` says whether query i sees keys up to i."""
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal and mask is None, scale=scale)
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap)) * softcap
    if mask is not None:
        scores = scores + mask
    elif causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu(1)
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


def headstart_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """The function that models call: `query` `[1, heads, T, head_dim]`, the answer `[1, T, heads, head_dim]`.

    `sliding_window` was compared with the model's own mask at load; the layer knows its window.
    Raises `ModelRefused` for anything it does not know.
    """
    check_arguments(attention_mask, dropout, others)
    layer: PagedLayer = getattr(module, LAYER)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = layer.attend(query, key, value, scale, softcap)
    return out[None], None


def check_arguments(attention_mask: object, dropout: float, others: Mapping[str, object]) -> None:
    """Raises `ModelRefused` if a layer asks for an attention that this function does not compute."""
    if attention_mask is not None:
        raise ModelRefused("it builds an attention mask of its own, which a packed batch cannot follow")
    if dropout:
        raise ModelRefused("it asks for dropout while serving")
    for name, given in others.items():
        if name == "is_causal" and given is False:
            raise ModelRefused("its attention is not causal")
        if name not in HARMLESS_ARGUMENTS and name != "is_causal" and given is not None:
            raise ModelRefused(f"its attention has {NAMED_REFUSALS.get(name, f'an argument {name!r} that is not known here')}")


AttentionInterface.register(NAME, headstart_attention)
