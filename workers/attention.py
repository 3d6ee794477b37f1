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
from workers.native import kernels
from workers.paged_cache import PagedCache
from workers.step_layout import Chunk, Decodes, StepLayout

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
NAMED_REFUSALS = {"position_bias": "a position bias"}


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """An attention module of a model, and the KV that it keeps."""

    module: torch.nn.Module
    kv: KVLayer


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """How a layer makes weights of scores: `scale * q.k`, then `softcap * tanh(score / softcap)`, then softmax.

    `sinks` `[heads]` are logits that join each head's softmax and take weight away, but have no value.
    """

    scale: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def sinks_by_kv_head(self, kv_heads: int) -> torch.Tensor | None:
        """`[kv_heads, group, 1]`, beside scores `[..., kv_heads, group, context]`."""
        return None if self.sinks is None else self.sinks.view(kv_heads, -1, 1)


class PagedAttention:
    """A model's attention `modules`, in order, made to work on one cache; `step` is the layout of the running forward.

    `native` are the kernels for the cache's dtype and device, None where there are none, or none that know these layers.
    """

    def __init__(self, cache: PagedCache, layers: Sequence[AttentionLayer]) -> None:
        self.cache = cache
        known = cache.data.device.type == "cpu" and all(_is_plain(layer) for layer in layers)
        self.native = kernels(cache.data.dtype) if known else None
        self.step: StepLayout | None = None
        for index, layer in enumerate(layers):
            setattr(layer.module, LAYER, PagedLayer(self, index, layer.kv.window))


def _is_plain(layer: AttentionLayer) -> bool:
    """Values as wide as keys, and no sinks: what the native kernel knows."""
    _, key_width, value_width = layer.kv.shape
    return key_width == value_width and getattr(layer.module, "sinks", None) is None


class PagedLayer:
    """One layer's K and V, `[slots, kv_heads, width]` each; the width of V may differ from that of K and queries."""

    def __init__(self, attention: PagedAttention, index: int, window: int | None) -> None:
        self._attention = attention
        self._window = window
        self._keys, self._values = attention.cache.slots(index)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: ScoreRule) -> torch.Tensor:
        """`query` `[T, heads, head_dim]`, `key` and `value` `[T, kv_heads, width]`; the answer is `[T, heads, value width]`."""
        step = self._attention.step
        assert step is not None, "a forward outside of a step"
        self._keys.index_copy_(0, step.slots, key)
        self._values.index_copy_(0, step.slots, value)
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        for chunk in step.chunks:
            out[chunk.start : chunk.stop] = self._attend_chunk(query[chunk.start : chunk.stop], chunk, step, rule)
        if step.decodes is not None:
            self._attend_in_place(query, step.decodes, step.seen_by_decodes(self._window), out, rule)
        for group in step.groups:
            out[group.rows] = self._attend_decodes(query[group.rows], *step.decode_slots(group, self._window), rule)
        return out

    def _attend_chunk(self, query: torch.Tensor, chunk: Chunk, step: StepLayout, rule: ScoreRule) -> torch.Tensor:
        """One sequence: `query` `[n, heads, head_dim]` over a view of its context, or a copy if its blocks are scattered.

        Heads that share a KV head become rows of a decode, and else a batch dimension over which K and V are broadcast.
        """
        where = step.context_slots(chunk, self._window)
        keys, values = (kv[where].transpose(0, 1) for kv in (self._keys, self._values))
        n, heads, head_dim = query.shape
        grouped, sinks = query.view(n, len(keys), -1, head_dim), rule.sinks_by_kv_head(len(keys))
        if n == 1:
            return dot_product(grouped, keys[None], values[None], None, False, rule, sinks).reshape(1, heads, -1)
        grouped, sinks = grouped.permute(2, 1, 0, 3), None if sinks is None else sinks.transpose(0, 1)[..., None]
        keys, values = (kv.expand(len(grouped), *kv.shape) for kv in (keys, values))
        out = dot_product(grouped, keys, values, step.chunk_mask(chunk, self._window), True, rule, sinks)
        return out.permute(2, 1, 0, 3).reshape(n, heads, -1)

    def _attend_in_place(self, query: torch.Tensor, decodes: Decodes, firsts: torch.Tensor, out: torch.Tensor, rule: ScoreRule) -> None:
        """Every decode of the step, over its blocks where they lie, from its first visible position in `firsts` on."""
        native = self._attention.native
        assert native is not None, "the layout of a step without kernels has no decodes of this kind"
        assert rule.sinks is None, "the native kernel knows no sinks"
        alone = len(query) == len(decodes.contexts)
        rows = (query if alone else query[decodes.rows]).contiguous()
        answer = out if alone else torch.empty_like(rows)
        native.attend(
            rows.data_ptr(),
            self._keys.data_ptr(),
            self._values.data_ptr(),
            answer.data_ptr(),
            decodes.tables.data_ptr(),
            decodes.contexts.data_ptr(),
            firsts.data_ptr(),
            *decodes.tables.shape,
            self._attention.cache.block_tokens,
            query.shape[1],
            *self._keys.shape[1:],
            rule.scale,
            rule.softcap or 0.0,
            torch.get_num_threads(),
        )
        if not alone:
            out[decodes.rows] = answer

    def _attend_decodes(self, query: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor, rule: ScoreRule) -> torch.Tensor:
        """Decodes together: `query` `[S, heads, head_dim]` over contexts gathered side by side from `slots` `[S, C]`."""
        keys, values = (self._gather(kv, slots) for kv in (self._keys, self._values))
        grouped = query.view(len(query), keys.shape[1], -1, query.shape[-1])
        sinks = rule.sinks_by_kv_head(keys.shape[1])
        return dot_product(grouped, keys, values, mask, False, rule, sinks).reshape(*query.shape[:-1], -1)

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
    rule: ScoreRule,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax attention over the last two dimensions; without a mask, `causal` says whether query i sees keys up to i.

    `sinks` are the rule's, in a shape that broadcasts to one more column of the scores.
    """
    if rule.softcap is None and sinks is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal and mask is None, scale=rule.scale)
    scores = query @ key.transpose(-1, -2) * rule.scale
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores = scores + mask
    elif causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu(1)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32)[..., : key.shape[-2]]
    return weights.to(value.dtype) @ value


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
    s_aux: torch.Tensor | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """The function that models call: `query` `[1, heads, T, head_dim]`, the answer `[1, T, heads, value width]`.

    `sliding_window` was compared with the model's own mask at load; the layer knows its window. `s_aux` are its sinks.
    Raises `ModelRefused` for anything it does not know.
    """
    check_arguments(attention_mask, dropout, others)
    layer: PagedLayer = getattr(module, LAYER)
    rule = ScoreRule(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = layer.attend(query, key, value, rule)
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
