"""The next token of each sampled row: greedy, or Gumbel-max with noise that depends on nothing but its name.

In this order: bias, grammar, penalties (`workers/logit_edits.py`), temperature, `top_k`, `top_p`, `min_p`
(`workers/truncation.py`), noise (`workers/noise.py`). Log-probabilities are of the raw logits, before all of it.
Gumbel-max: argmax over `log p + gumbel` is a sample of `p` (E. J. Gumbel, 1954).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from workers.engine import Sample, TopLogprobs
from workers.logit_edits import edit_logits
from workers.noise import gumbel_noise
from workers.truncation import truncate


class Likeliest(NamedTuple):
    """The likeliest tokens of those rows that asked for them, on the device: `ids` and `logprobs` are `[len(rows), K]`."""

    rows: list[int]
    counts: list[int]
    """How many of the K each row asked for."""
    ids: torch.Tensor
    logprobs: torch.Tensor

    def on_host(self) -> Likeliest:
        return self._replace(ids=self.ids.to("cpu", non_blocking=True), logprobs=self.logprobs.to("cpu", non_blocking=True))

    def by_row(self, num_rows: int) -> tuple[TopLogprobs, ...]:
        """Per row, best first; empty where not asked for."""
        answer: list[TopLogprobs] = [()] * num_rows
        for row, count, ids, logprobs in zip(self.rows, self.counts, self.ids.tolist(), self.logprobs.tolist(), strict=True):
            ranked = sorted(zip(ids, logprobs, strict=True), key=lambda pair: (-pair[1], pair[0]))
            answer[row] = tuple(ranked[:count])
        return tuple(answer)


class Chosen(NamedTuple):
    """What each of R rows samples: ids `[R]` (int64), log-probabilities `[R]` (float32)."""

    tokens: torch.Tensor
    logprobs: torch.Tensor
    top: Likeliest | None = None
    """None if no row asked."""

    def on_host(self) -> Chosen:
        """On its way there: to be read when the device has come so far."""
        top = self.top and self.top.on_host()
        return Chosen(self.tokens.to("cpu", non_blocking=True), self.logprobs.to("cpu", non_blocking=True), top)


def choose(
    logits: torch.Tensor, samples: Sequence[Sample], previous: torch.Tensor | None = None, eos_token_ids: Sequence[int] = ()
) -> Chosen:
    """Row i of `logits` `[R, V]` (float32) answers `samples[i]`.

    `previous` holds the tokens that the plan before sampled, for histories that end in one of them; `eos_token_ids` are
    what `min_tokens` holds back.
    """
    edited = edit_logits(logits, samples, previous, eos_token_ids)
    tokens = edited.argmax(dim=-1)
    drawn = [row for row, sample in enumerate(samples) if sample.params.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        tokens[rows] = _draw(edited[rows], [samples[row] for row in drawn])
    total = logits.logsumexp(dim=-1)
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return Chosen(tokens, (chosen - total).clamp_(max=0.0), _likeliest(logits, total, samples))


def _draw(logits: torch.Tensor, samples: Sequence[Sample]) -> torch.Tensor:
    temperatures = torch.tensor([s.params.temperature for s in samples], dtype=torch.float64, device=logits.device)
    scores = logits.double() / temperatures[:, None]
    truncate(scores, [s.params for s in samples])
    return scores.add_(gumbel_noise(samples, logits.shape[-1], logits.device)).argmax(dim=-1)


def _likeliest(logits: torch.Tensor, total: torch.Tensor, samples: Sequence[Sample]) -> Likeliest | None:
    rows = [row for row, sample in enumerate(samples) if sample.params.top_logprobs]
    if not rows:
        return None
    counts = [samples[row].params.top_logprobs for row in rows]
    at = torch.tensor(rows, device=logits.device)
    best, ids = logits[at].topk(min(max(counts), logits.shape[-1]), dim=-1)
    return Likeliest(rows, counts, ids, (best - total[at, None]).clamp_(max=0.0))
