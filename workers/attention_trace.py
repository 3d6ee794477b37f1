"""What a model's attention layers really do, asked of the model itself by one tiny forward at load.

Every call of the attention interface is recorded. In place of a mask the model gets a token that remembers the window
of the model's own mask function, found by evaluating it over the whole context length: a window or a chunk that no short
prompt would reach is known exactly, whatever the configuration calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from shared.errors import ModelRefused
from workers.attention import AttentionLayer, check_arguments
from workers.kv_layout import KVLayer

NAME = "headstart_trace"
MAX_LIMIT = 1 << 20
"""Masks are evaluated up to this many positions."""

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(batch, head, query position, key position) -> visible, over broadcast index tensors: transformers' own form of a mask."""


@dataclass(slots=True)
class _Trace:
    limit: int
    layers: list[AttentionLayer] = field(default_factory=list)


_running: ContextVar[_Trace] = ContextVar("headstart_trace")


class _MaskToken(torch.Tensor):
    """Stands for a mask on its way through a model; passes through device and dtype changes unharmed."""

    window: int | None


def trace_layers(model: Any, limit: int) -> tuple[AttentionLayer, ...]:
    """Every call of the attention interface in a forward of `model` over three tokens; `limit` is its longest context.

    Raises `ModelRefused`, without the model's name, for what our attention does not compute.
    """
    trace = _Trace(min(limit, MAX_LIMIT))
    running = _running.set(trace)
    try:
        model.set_attn_implementation(NAME)
        ids = torch.arange(3, device=model.device)[None]
        with torch.inference_mode():
            model(input_ids=ids, position_ids=ids, use_cache=False)
    finally:
        _running.reset(running)
    return tuple(trace.layers)


def visible_window(visible: MaskFunction, limit: int) -> int | None:
    """The sliding window of a mask over `limit` positions; None for full causal attention.

    Raises `ModelRefused` for a mask that is neither: one that looks ahead, attends in chunks, or has holes.
    """
    zero, positions = torch.zeros((), dtype=torch.int64), torch.arange(limit)
    window = int(visible(zero, zero, positions[-1], positions).expand(limit).sum())
    for distance in {-1, 0, 1, window - 1, window}:
        queries = positions[max(distance, 0) : limit + min(distance, 0)]
        seen = visible(zero, zero, queries, queries - distance).expand(len(queries))
        if (seen != (0 <= distance < window)).any():
            raise ModelRefused("its attention is neither causal nor a sliding window (chunked, prefix or bidirectional)")
    return None if window == limit else window


def _trace_mask(*, mask_function: MaskFunction, **_: object) -> torch.Tensor:
    token = torch.empty((1, 1, 1, 1)).as_subclass(_MaskToken)
    token.window = visible_window(mask_function, _running.get().limit)
    return token


def _trace_attention(
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
    """Records the layer and answers zeros: only shapes, arguments and the mask are of interest."""
    check_arguments(None, dropout, others)
    if not isinstance(attention_mask, _MaskToken) or not hasattr(attention_mask, "window"):
        raise ModelRefused("it builds an attention mask of its own, which a packed batch cannot follow")
    _check_shapes(query, key, value, s_aux)
    trace = _running.get()
    _check_window(sliding_window, attention_mask.window, trace.limit)
    width = value.shape[-1] if value.shape[-1] != key.shape[-1] else None
    trace.layers.append(AttentionLayer(module, KVLayer(key.shape[1], key.shape[-1], attention_mask.window, width)))
    return query.new_zeros((1, query.shape[2], query.shape[1], value.shape[-1])), None


def _check_shapes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sinks: torch.Tensor | None) -> None:
    heads, kv_heads = query.shape[1], key.shape[1]
    if query.shape[-1] != key.shape[-1] or key.shape[:-1] != value.shape[:-1] or query.shape[2] != key.shape[2] or heads % kv_heads:
        shapes = ", ".join(str(tuple(tensor.shape[1:])) for tensor in (query, key, value))
        raise ModelRefused(f"the shapes of its queries, keys and values do not fit each other ({shapes})")
    if sinks is not None and sinks.numel() != heads:
        raise ModelRefused(f"its attention has {sinks.numel()} sinks for {heads} heads")


def _check_window(argument: int | None, window: int | None, limit: int) -> None:
    if argument is not None and min(argument, limit) != (window or limit):
        raise ModelRefused(f"it passes a sliding window of {argument} tokens, but its mask has {window}")


AttentionInterface.register(NAME, _trace_attention)
AttentionMaskInterface.register(NAME, _trace_mask)
