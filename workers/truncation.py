"""Which tokens may be drawn at all: the `top_k` likeliest, of those the nucleus, of those the ones at least `min_p` as likely as the best.

The most probable id always stays; among equals the lower id comes first. What stays does not depend on the other rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shared.types import SamplingParams

LOOKED_AT = 1024
"""So many of the likeliest are ranked first on a CPU, and all only where the nucleus is larger: measured at 32 rows of 32,000,
ranking 1024 takes a tenth of the time of ranking all. A GPU ranks all, and so need not wait for the answer."""


def truncate(scores: torch.Tensor, params: Sequence[SamplingParams]) -> None:
    """Sets to -inf, in place, what may not be drawn of `scores` `[R, V]`: float64 log-probabilities up to a constant per row."""
    vocabulary = scores.shape[-1]
    ranked = [row for row, p in enumerate(params) if 0 < p.top_k < vocabulary or p.top_p < 1]
    if ranked:
        _keep_ranked(scores, ranked, [params[row] for row in ranked])
    floored = [row for row, p in enumerate(params) if p.min_p > 0]
    if floored:
        _keep_likely(scores, floored, [params[row].min_p for row in floored])


def _keep_likely(scores: torch.Tensor, rows: list[int], min_p: list[float]) -> None:
    """A ratio of probabilities is a difference of scores, whatever was dropped before."""
    where = torch.tensor(rows, device=scores.device)
    kept = scores[where]
    floor = kept.amax(dim=-1, keepdim=True) + torch.tensor(min_p, dtype=scores.dtype, device=scores.device).log_()[:, None]
    scores[where] = kept.masked_fill_(kept < floor, -torch.inf)


def _keep_ranked(scores: torch.Tensor, rows: list[int], params: Sequence[SamplingParams]) -> None:
    vocabulary, device = scores.shape[-1], scores.device
    top_k = torch.tensor([p.top_k if 0 < p.top_k < vocabulary else vocabulary for p in params], device=device)
    top_p = torch.tensor([p.top_p if p.top_p < 1 else torch.inf for p in params], dtype=torch.float64, device=device)
    where = torch.tensor(rows, device=device)
    depth = vocabulary if device.type != "cpu" else min(vocabulary, max(p.top_k or LOOKED_AT for p in params))
    mine = scores[where]
    count, last, settled = _rank(mine, top_k, top_p, depth)
    if depth < vocabulary and not settled.all():
        rest = ~settled
        count[rest], last[rest], _ = _rank(mine[rest], top_k[rest], top_p[rest], vocabulary)
    scores[where] = mine.masked_fill_(~_first(mine, count, last), -torch.inf)


def _rank(scores: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per row: how many stay, the score of the last of them, and whether the `depth` likeliest were enough to tell."""
    ranked = scores.topk(depth, dim=-1).values
    within = torch.arange(depth, device=scores.device) < top_k[:, None]
    cut = (top_k < scores.shape[-1])[:, None]
    total = torch.where(cut, ranked.masked_fill(~within, -torch.inf).logsumexp(-1, keepdim=True), scores.logsumexp(-1, keepdim=True))
    probabilities = (ranked - total).exp_().masked_fill_(~within, 0.0)
    reached = probabilities.cumsum(dim=-1)
    inside = within & (reached - probabilities < top_p[:, None])
    count = inside.sum(dim=-1).clamp_(min=1)
    last = ranked.gather(-1, count[:, None] - 1)
    return count, last, cut[:, 0] | (reached[:, -1] >= top_p)


def _first(scores: torch.Tensor, count: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The `count` first of each row in order of score, then of id; `last` is the score of the last of them."""
    above, level = scores > last, scores == last
    room = count[:, None] - above.sum(dim=-1, keepdim=True)
    if scores.device.type == "cpu" and bool((level.sum(dim=-1, keepdim=True) <= room).all()):
        return above | level
    return above | (level & (level.cumsum(dim=-1) <= room))
