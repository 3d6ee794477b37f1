"""What a request changes in its logits before a token is chosen: bias, grammar, penalties.

Each is a function of the request and of the choice's own tokens, so that it is the same on any worker and in any batch.

repetition (Keskar et al., "CTRL", 2019; as transformers does): of every token in prompt and answer, a positive logit is divided
by the penalty, a negative one multiplied. presence and frequency (OpenAI): `logit -= count * frequency + (count > 0) * presence`,
counting generated tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from workers.engine import History, Sample


def edit_logits(logits: torch.Tensor, samples: Sequence[Sample], previous: torch.Tensor | None, eos: Sequence[int]) -> torch.Tensor:
    """`[R, V]`; `logits` itself, untouched, if nobody asks for anything, else a copy."""
    biased = [row for row, sample in enumerate(samples) if sample.params.logit_bias]
    bound = [row for row, sample in enumerate(samples) if sample.allowed is not None]
    held = [row for row, sample in enumerate(samples) if sample.index < sample.params.min_tokens] if eos else []
    penalised = [row for row, sample in enumerate(samples) if sample.history is not None and _penalties(sample) != (1.0, 0.0, 0.0)]
    if not (biased or bound or held or penalised):
        return logits
    edited = logits.clone()
    if biased:
        _add_bias(edited, biased, samples)
    if bound:
        _keep_allowed(edited, bound, samples)
    if held:
        _hold_back(edited, held, eos)
    if penalised:
        _penalise(edited, penalised, samples, previous)
    return edited


def _add_bias(edited: torch.Tensor, rows: list[int], samples: Sequence[Sample]) -> None:
    """An id outside the vocabulary biases nothing: on a device it would end the process."""
    vocabulary = edited.shape[-1]
    biases = [(row, token, bias) for row in rows for token, bias in samples[row].params.logit_bias if 0 <= token < vocabulary]
    at = torch.tensor([(row, token) for row, token, _ in biases], dtype=torch.int64, device=edited.device).reshape(-1, 2)
    values = torch.tensor([bias for _, _, bias in biases], dtype=edited.dtype, device=edited.device)
    edited.index_put_((at[:, 0], at[:, 1]), values, accumulate=True)


def _keep_allowed(edited: torch.Tensor, rows: list[int], samples: Sequence[Sample]) -> None:
    """What no bit of the grammar's mask stands for is not allowed."""
    vocabulary, device = edited.shape[-1], edited.device
    width = -(-vocabulary // 32)
    words = np.zeros((len(rows), width), dtype=np.int32)
    for at, row in enumerate(rows):
        allowed = samples[row].allowed
        assert allowed is not None
        words[at, : len(allowed)] = allowed[:width]
    ids = torch.arange(vocabulary, device=device)
    bits = (torch.from_numpy(words).to(device)[:, ids >> 5] >> (ids & 31)) & 1
    where = torch.tensor(rows, device=device)
    edited[where] = edited[where].masked_fill_(bits == 0, -torch.inf)


def _hold_back(edited: torch.Tensor, rows: list[int], eos: Sequence[int]) -> None:
    """No end-of-sequence token yet, except where nothing else is allowed."""
    where = torch.tensor(rows, device=edited.device)[:, None]
    ends = torch.tensor([token for token in eos if token < edited.shape[-1]], dtype=torch.int64, device=edited.device)
    before = edited[where, ends]
    edited[where, ends] = -torch.inf
    stuck = edited[where[:, 0]].amax(dim=-1, keepdim=True) == -torch.inf
    edited[where, ends] = before.masked_fill_(~stuck, -torch.inf)


def _penalise(edited: torch.Tensor, rows: list[int], samples: Sequence[Sample], previous: torch.Tensor | None) -> None:
    histories = [history for row in rows if (history := samples[row].history) is not None]
    counts, seen = _count(histories, previous, edited.shape[-1], edited.device)
    repetition, frequency, presence = (
        torch.tensor(values, dtype=edited.dtype, device=edited.device)[:, None]
        for values in zip(*(_penalties(samples[row]) for row in rows), strict=True)
    )
    where = torch.tensor(rows, device=edited.device)
    scores = edited[where]
    scores = torch.where(seen, torch.where(scores < 0, scores * repetition, scores / repetition), scores)
    edited[where] = scores - counts * frequency - (counts > 0) * presence


def _penalties(sample: Sample) -> tuple[float, float, float]:
    params = sample.params
    return params.repetition_penalty, params.frequency_penalty, params.presence_penalty


def _count(
    histories: list[History], previous: torch.Tensor | None, vocabulary: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each token was generated, float32 `[P, V]`, and which stand in prompt or answer, bool `[P, V]`."""
    lengths = [len(history.token_ids) for history in histories]
    ids = torch.from_numpy(np.concatenate([history.token_ids for history in histories]).astype(np.int64)).to(device)
    rows = torch.from_numpy(np.repeat(np.arange(len(histories)), lengths)).to(device)
    generated = torch.from_numpy(np.concatenate([np.arange(n) >= h.num_prompt for n, h in zip(lengths, histories, strict=True)])).to(device)
    if pending := [(row, history.pending) for row, history in enumerate(histories) if history.pending >= 0]:
        assert previous is not None, "a history refers to samples of a plan that is not known"
        late = torch.tensor(pending, dtype=torch.int64, device=device)
        ids, rows = torch.cat([ids, previous[late[:, 1]]]), torch.cat([rows, late[:, 0]])
        generated = torch.cat([generated, generated.new_ones(len(pending))])
    counts = torch.zeros(len(histories), vocabulary, device=device).index_put_((rows, ids), generated.float(), accumulate=True)
    seen = torch.zeros(len(histories), vocabulary, dtype=torch.bool, device=device)
    seen[rows, ids] = True
    return counts, seen
