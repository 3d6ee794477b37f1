"""What a model must prove at load before it is served: some architectures run without an error and are silently wrong.

1. By name: encoder-decoders, state other than keys and values, chunked attention, positions that depend on the batch.
2. By trace: every attention layer calls our interface, once, with arguments that we know and shapes that fit.
3. By probe: two requests, packed and chunked over interleaved blocks, give the unpacked model's log-probabilities. The second
   one stands at the far end of the context, so that whatever depends on positions meets both ends at once, and a crowd of equal
   tokens goes before them, so that whatever has room for so many tokens of a batch has none left.
4. By its state: no buffer and no tensor that a module holds is another one after the probe.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from shared.errors import ModelRefused
from workers.acceleration import accelerate
from workers.attention import NAME, AttentionLayer, PagedAttention
from workers.attention_trace import trace_layers
from workers.engine import KVSpec
from workers.kv_layout import kv_spec
from workers.model_runner import ModelRunner
from workers.paged_cache import PagedCache
from workers.step_plans import Piece, write_plan
from workers.uneven_cache import cache_for

log = logging.getLogger(__name__)

FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""RoPE types whose frequencies are settled when the model is built."""
BATCH_ROPE = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}
"""RoPE types that switch frequencies when any token of the batch lies beyond this setting: up to it they are fixed."""

PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention"})
PLAIN_CACHES = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"})
"""A `DummyLayer` holds nothing: its layer is given an earlier layer's keys and values, which are then kept a second time."""

TOLERANCE = 1e-4
"""Largest difference of a log-probability in float32."""
ROUNDED_TOLERANCE = 0.1
"""Largest mean difference in a 16-bit dtype, over chunks and over decodes: rounding alone gave 0.03 with random weights, where
single values moved by 0.8 (an expert chosen otherwise)."""

PROBE_BLOCK_TOKENS = 16
PROBE_TOKENS = (61, 38)
MAX_PROBE_TOKENS = 192
PROBE_CHUNKS = ((64,), (7, 16, 1, 1, 64), (5, 1, 30, 1))
"""Tokens per step of the crowd and the two requests, the last repeated: chunks beside chunks, beside decodes, and decodes together."""
PROBE_CROWD = 70
"""Tokens of a third request, all alike and first in every step: what a router has room for, it takes."""
PROBE_DECODES = 6
"""The last tokens of each prompt are decoded, so that a window's far end is met by a decode too."""


def check_config(config: Any) -> None:
    """Raises `ModelRefused` for an architecture that is known not to be servable, by its configuration alone."""
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused("it is an encoder-decoder; only decoder-only models are served")
    if quantised := getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
        raise ModelRefused(f"its weights are quantised ({getattr(method, 'value', method)}); float32, bfloat16 and float16 are served")
    if strange := sorted(set(getattr(text, "layer_types", None) or ()) - PLAIN_LAYERS):
        raise ModelRefused(f"it has layers of type {', '.join(strange)}; only full and sliding-window attention is served")
    kinds = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - PLAIN_CACHES
    if kinds:
        raise ModelRefused(f"its layers keep state other than keys and values ({', '.join(sorted(kinds))})")


def position_limit(config: Any, wanted: int | None) -> int:
    """The longest context in tokens for which positions depend on the configuration and never on the batch."""
    text = config.get_text_config(decoder=True)
    limit: int = getattr(text, "max_position_embeddings", None) or 1 << 20
    reason = "the model's max_position_embeddings"
    for rope in rope_settings(text):
        kind = str(rope.get("rope_type", "default"))
        if kind not in FIXED_ROPE and kind not in BATCH_ROPE:
            raise ModelRefused(f"its RoPE type {kind!r} is not known to be independent of the batch")
        if kind in BATCH_ROPE:
            settled = rope.get(BATCH_ROPE[kind]) or getattr(text, BATCH_ROPE[kind], None) or limit
            limit, reason = min(limit, int(settled)), f"where {kind} RoPE starts to depend on the batch"
    if wanted is not None and wanted > limit:
        raise ModelRefused(f"it cannot serve {wanted} tokens: {limit} is {reason}; ask for at most {limit}")
    return wanted or limit


def rope_settings(text_config: Any) -> list[dict[str, Any]]:
    """The RoPE parameters of a text configuration: one set, or one per layer type, or none."""
    found = getattr(text_config, "rope_parameters", None) or {}
    nested = [settings for settings in found.values() if isinstance(settings, dict)]
    return nested or ([dict(found)] if found else [])


def prove_layers(model: Any, limit: int) -> tuple[AttentionLayer, ...]:
    """The model's attention layers, in order, each of which calls our interface exactly once per forward."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ModelRefused("its forward takes no position_ids, so a packed batch cannot say where its tokens stand")
    if getattr(model, "_is_stateful", False):
        raise ModelRefused("it keeps state other than keys and values")
    layers = trace_layers(model, limit)
    wanted = model.config.get_text_config(decoder=True).num_hidden_layers
    modules = {id(layer.module) for layer in layers}
    if not len(layers) == len(modules) == wanted:
        raise ModelRefused(f"{len(modules)} of its {wanted} attention layers call the attention interface ({len(layers)} calls)")
    _check_cache_windows(model.config, [layer.kv.window or limit for layer in layers], limit)
    return layers


def _check_cache_windows(config: Any, windows: Sequence[int], limit: int) -> None:
    """Raises `ModelRefused` if the model's own cache forgets what its mask shows: then `generate()` is not the full forward."""
    for layer, window in zip(DynamicCache(config=config).layers, windows, strict=False):
        if min(getattr(layer, "sliding_window", None) or limit, limit) < window:
            raise ModelRefused(f"its cache keeps {layer.sliding_window} tokens, but its mask shows {window}: which is right is not known")


def prove_packing(model: Any, layers: Sequence[AttentionLayer], dtype: torch.dtype, limit: int) -> None:
    """Raises `ModelRefused` unless a packed, chunked probe of two requests gives the unpacked model's log-probabilities.

    The model that passes is accelerated; one that only passes as it was is left so.
    """
    prompts = _prompts(model, layers, limit)
    model.set_attn_implementation("eager")
    firsts = (0, limit - len(prompts[1]))
    wanted = [_run_alone(model, ids, first) for ids, first in zip(prompts, firsts, strict=True)]
    crowd = prompts[0][:1].expand(min(PROBE_CROWD, limit))
    crowded = [crowd, *prompts]
    acceleration = accelerate(model, dtype, prompts[0].device)
    try:
        _compare(wanted, _run_packed(model, layers, crowded, dtype, (0, *firsts))[1:], dtype)
    except Exception:
        if not acceleration.replaced:
            raise
        log.warning("with native kernels the model fails its proof: it is served without", exc_info=True)
        acceleration.undo()
        _compare(wanted, _run_packed(model, layers, crowded, dtype, (0, *firsts))[1:], dtype)


def _compare(wanted: list[torch.Tensor], got: list[torch.Tensor], dtype: torch.dtype) -> None:
    """Raises `ModelRefused` where the log-probabilities of a probe differ by more than rounding."""
    gaps = [_gaps(w, g) for w, g in zip(wanted, got, strict=True)]
    chunks, decodes = (torch.cat(rows) for rows in zip(*[(g[:-PROBE_DECODES], g[-PROBE_DECODES:]) for g in gaps], strict=True))
    if dtype == torch.float32:
        gap, allowed = max(float(chunks.max()), float(decodes.max())), TOLERANCE
    else:
        gap, allowed = max(float(chunks.mean()), float(decodes.mean())), ROUNDED_TOLERANCE
    if not gap <= allowed:
        raise ModelRefused(
            f"packed and chunked, its log-probabilities differ from the unpacked model's by {gap:.2g} (allowed {allowed:.0e})"
        )


def _prompts(model: Any, layers: Sequence[AttentionLayer], limit: int) -> list[torch.Tensor]:
    """Two prompts, beyond every window that is short enough, of ids that are spread over the vocabulary."""
    windows = [layer.kv.window for layer in layers if layer.kv.window is not None]
    longest = max([PROBE_TOKENS[0], *(window + 9 for window in windows if window + 9 <= MAX_PROBE_TOKENS)])
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    lengths = (min(longest, limit), min(PROBE_TOKENS[1], limit))
    return [(torch.arange(n, device=model.device) * 7919 + 31 * (1 + i)) % vocabulary for i, n in enumerate(lengths)]


@torch.inference_mode()
def _run_alone(model: Any, ids: torch.Tensor, first: int) -> torch.Tensor:
    """Log-probabilities `[n, V]` of one prompt whose positions begin at `first`, by the model's own attention."""
    positions = torch.arange(first, first + len(ids), device=ids.device)
    logprobs: torch.Tensor = model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[0].float().log_softmax(-1)
    return logprobs


def _run_packed(
    model: Any, layers: Sequence[AttentionLayer], prompts: list[torch.Tensor], dtype: torch.dtype, firsts: Sequence[int]
) -> list[torch.Tensor]:
    """Log-probabilities `[n, V]` of every row of each prompt, computed by our attention over a cache of its own.

    Prompt i's positions begin at `firsts[i]`.
    """
    kv = kv_spec([layer.kv for layer in layers], "float32", b"", {})
    blocks = len(prompts) * -(-max(len(ids) for ids in prompts) // PROBE_BLOCK_TOKENS)
    model.set_attn_implementation(NAME)
    runner = ModelRunner(model, PagedAttention(_poisoned_cache(kv, blocks, dtype, prompts[0].device), layers))
    held = [_probe_blocks(r, len(prompts), blocks) for r in range(len(prompts))]
    rows: list[list[torch.Tensor]] = [[] for _ in prompts]
    for step in _schedule([len(ids) for ids in prompts]):
        pieces = [Piece(prompts[r][start:stop].tolist(), start, held[r], range(stop - start)) for r, start, stop in step]
        plan = write_plan(0, pieces, PROBE_BLOCK_TOKENS)
        offsets = np.repeat([firsts[r] for r, _, _ in step], [stop - start for _, start, stop in step])
        plan = replace(plan, positions=plan.positions + offsets.astype(np.int32))
        logprobs = runner.logits(plan, None).log_softmax(-1)
        parts = torch.split_with_sizes(logprobs, [stop - start for _, start, stop in step])
        for (request, _, _), part in zip(step, parts, strict=True):
            rows[request].append(part)
    return [torch.cat(parts) for parts in rows]


def _probe_blocks(request: int, requests: int, blocks: int) -> range:
    """Every `requests`-th block, of odd requests backwards: interleaved, and none beside its successor."""
    own = range(request, blocks, requests)
    return own[::-1] if request % 2 else own


def _poisoned_cache(kv: KVSpec, blocks: int, dtype: torch.dtype, device: torch.device) -> PagedCache:
    """A cache full of NaN: one read of a slot that the request did not write shows."""
    cache = cache_for(kv, PROBE_BLOCK_TOKENS, blocks, dtype, device)
    cache.data.fill_(torch.nan)
    return cache


def _schedule(lengths: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """Steps as lists of (request, start, stop), all requests advancing side by side."""
    done = [0] * len(lengths)
    steps: list[list[tuple[int, int, int]]] = []
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        parts = []
        for request, length in enumerate(lengths):
            start, chunks = done[request], PROBE_CHUNKS[request]
            chunk = min(chunks[min(len(steps), len(chunks) - 1)], length - PROBE_DECODES - start)
            done[request] = min(length, start + max(1, chunk))
            if done[request] > start:
                parts.append((request, start, done[request]))
        steps.append(parts)
    return steps


def _gaps(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Differences at the eight most probable ids of every row: where a wrong context shows, and rounding shows least."""
    top = wanted.topk(min(8, wanted.shape[-1]), dim=-1).indices
    return (wanted.gather(-1, top) - got.gather(-1, top)).abs()
