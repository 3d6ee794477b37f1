"""What the finer sampling parameters make of a fake model's logits: `SamplingParams` word by word, in plain numpy.

Written apart from `workers/sampling.py` on purpose: one row at a time, nothing shared, so that each can be held to the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.types import SamplingParams
from workers.engine import Int32, TopLogprobs

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Where in its choice a token stands, and what stands before it."""

    index: int = 0
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    """Prompt and generated tokens are needed where there are penalties."""
    allowed: Int32 | None = None


def is_plain(params: SamplingParams, drawn: Drawn) -> bool:
    """Whether the choice needs no more than a temperature."""
    edited = params.logit_bias or params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1
    cut = params.temperature > 0 and (params.top_k or params.top_p < 1 or params.min_p)
    return not (edited or cut or drawn.index < params.min_tokens or drawn.allowed is not None)


def pick(logits: Float64, gumbel: Float64, params: SamplingParams, drawn: Drawn, eos: Collection[int]) -> int:
    """The token that `params` choose from `logits` `[V]` with standard Gumbel noise `[V]`."""
    scores = edit(logits, params, drawn, eos)
    if params.temperature <= 0:
        return int(scores.argmax())
    return int((cut(scores / params.temperature, params) + gumbel).argmax())


def edit(logits: Float64, params: SamplingParams, drawn: Drawn, eos: Collection[int]) -> Float64:
    """Bias, grammar and `min_tokens`, penalties."""
    scores = logits.copy()
    for token, bias in params.logit_bias:
        if 0 <= token < len(scores):
            scores[token] += bias
    if drawn.allowed is not None:
        bits = np.unpackbits(drawn.allowed.view(np.uint8), bitorder="little")
        scores[[token for token in range(len(scores)) if token >= len(bits) or not bits[token]]] = -np.inf
    if drawn.index < params.min_tokens:
        held = scores.copy()
        held[list(eos)] = -np.inf
        scores = held if np.isfinite(held).any() else scores
    for token in {*drawn.prompt, *drawn.generated} if params.repetition_penalty != 1 else ():
        scores[token] *= params.repetition_penalty if scores[token] < 0 else 1 / params.repetition_penalty
    for token, count in Counter(drawn.generated).items():
        scores[token] -= count * params.frequency_penalty + params.presence_penalty
    return scores


def cut(scores: Float64, params: SamplingParams) -> Float64:
    """`top_k`, then `top_p`, then `min_p`; among equals the lower id is the likelier."""
    if not params.top_k and params.top_p >= 1 and not params.min_p:
        return scores
    ranked = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    kept = ranked[: params.top_k or None]
    kept = _nucleus(kept, scores, params.top_p)
    floor = scores[kept[0]] + (np.log(params.min_p) if params.min_p else -np.inf)
    answer = np.full(len(scores), -np.inf)
    kept = [token for token in kept if scores[token] >= floor]
    answer[kept] = scores[kept]
    return answer


def _nucleus(ranked: list[int], scores: Float64, top_p: float) -> list[int]:
    probabilities = np.exp(scores[ranked] - scores[ranked[0]])
    before = np.cumsum(probabilities) - probabilities
    inside = int((before < top_p * probabilities.sum()).sum()) if top_p < 1 else len(ranked)
    return ranked[: max(1, inside)]


def log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max()
    logprobs: Float64 = shifted - np.log(np.exp(shifted).sum())
    return logprobs


def likeliest(logprobs: Float64, count: int) -> TopLogprobs:
    """Best first; among equals the lower id."""
    return tuple((int(token), float(logprobs[token])) for token in np.argsort(-logprobs, kind="stable")[:count])
