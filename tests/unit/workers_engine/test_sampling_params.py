"""Each sampling parameter of the torch sampler against a plain reference: transformers, OpenAI's formula, numpy, chi-square."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from shared.types import SamplingParams
from workers.engine import History, Sample
from workers.fake_sampling import Drawn, pick
from workers.logit_edits import edit_logits
from workers.noise import gumbel_noise
from workers.sampling import choose
from workers.truncation import LOOKED_AT, truncate

CPU = torch.device("cpu")
EOS = (3,)


def make_sample(index: int = 0, *, prompt: tuple[int, ...] = (), generated: tuple[int, ...] = (), **params: Any) -> Sample:
    history = History(np.array(prompt + generated, dtype=np.int32), len(prompt)) if prompt else None
    return Sample(0, SamplingParams(max_tokens=9, **{"temperature": 1.0, "seed": 5, **params}), 0, index, history)


def random_logits(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def edited(logits: torch.Tensor, *samples: Sample) -> torch.Tensor:
    return edit_logits(logits, samples, None, EOS)


# --- edits


def test_the_repetition_penalty_is_transformers() -> None:
    logits, prompt, generated = random_logits(1, 50), (4, 9, 9, 17), (9, 30)
    for penalty in (0.7, 1.3):
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + generated]), logits)
        found = edited(logits, make_sample(2, prompt=prompt, generated=generated, repetition_penalty=penalty))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


def test_presence_and_frequency_penalties_are_openais() -> None:
    """logit - count * frequency - (count > 0) * presence, of the generated tokens alone."""
    logits, generated = random_logits(1, 50), (9, 30, 9, 9)
    found = edited(logits, make_sample(4, prompt=(9, 4, 30), generated=generated, frequency_penalty=0.4, presence_penalty=-1.1))
    wanted = logits[0].tolist()
    for token, count in Counter(generated).items():
        wanted[token] += -count * 0.4 + 1.1
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_token_that_is_not_known_yet_counts() -> None:
    logits = random_logits(2, 50).repeat(1, 1)
    known = make_sample(2, prompt=(1, 2), generated=(7, 8), frequency_penalty=2.0, repetition_penalty=1.5)
    pending = Sample(0, known.params, 0, 2, History(np.array([1, 2, 7], dtype=np.int32), 2, pending=1))
    found = edit_logits(logits[[0, 0]], [known, pending], torch.tensor([30, 8, 31]), EOS)
    assert found[0].tolist() == found[1].tolist()


def test_rows_that_ask_for_nothing_are_not_touched() -> None:
    logits = random_logits(3, 50)
    assert edited(logits, *[make_sample(temperature=0.0)] * 3) is logits
    before = logits.clone()
    found = edited(logits, make_sample(), make_sample(logit_bias=((3, 1.0),)), make_sample())
    assert logits.equal(before)
    assert found[[0, 2]].equal(logits[[0, 2]])
    assert found[1, 3] == logits[1, 3] + 1.0


# --- truncation


@pytest.mark.parametrize(("vocabulary", "seed"), [(200, 1), (3 * LOOKED_AT, 2)])
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(40, 1.0, 0.0), (0, 0.8, 0.0), (0, 1.0, 0.05), (60, 0.9, 0.02), (0, 0.9999, 0.0)])
def test_what_stays_is_what_transformers_keeps(vocabulary: int, seed: int, top_k: int, top_p: float, min_p: float) -> None:
    scores = random_logits(4, vocabulary, seed).double()
    wanted, none = scores.clone(), torch.zeros(4, 1, dtype=torch.int64)
    wanted = TopKLogitsWarper(top_k)(none, wanted) if top_k else wanted
    wanted = TopPLogitsWarper(top_p)(none, wanted) if top_p < 1 else wanted
    wanted = MinPLogitsWarper(min_p)(none, wanted) if min_p else wanted
    truncate(scores, [SamplingParams(9, top_k=top_k, top_p=top_p, min_p=min_p)] * 4)
    assert scores.equal(wanted)


def test_a_flat_nucleus_beyond_what_is_looked_at_first_is_found() -> None:
    vocabulary = 4 * LOOKED_AT
    scores = torch.zeros(2, vocabulary, dtype=torch.float64)
    scores[1, 0] = 50.0
    truncate(scores, [SamplingParams(9, top_p=0.5)] * 2)
    kept = (scores > -torch.inf).sum(dim=-1).tolist()
    assert kept == [vocabulary // 2, 1]
    assert scores[0, : vocabulary // 2].isfinite().all()


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    scores = random_logits(1, 20).double()
    before = scores.clone()
    truncate(scores, [SamplingParams(9, top_k=500)])
    assert scores.equal(before)


def test_among_equals_top_k_keeps_the_lower_ids() -> None:
    scores = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    truncate(scores, [SamplingParams(9, top_k=3)])
    assert scores.isfinite().tolist() == [[True, True, True, False, False]]


# --- all of it at once, against numpy


def random_params(rng: Random) -> dict[str, Any]:
    return {
        "temperature": rng.choice((0.0, 0.3, 1.0, 1.7)),
        "seed": rng.getrandbits(40),
        "top_k": rng.choice((0, 0, 1, 5, 40)),
        "top_p": rng.choice((1.0, 0.5, 0.95)),
        "min_p": rng.choice((0.0, 0.0, 0.1)),
        "presence_penalty": rng.choice((0.0, 0.8)),
        "frequency_penalty": rng.choice((0.0, -0.5, 1.2)),
        "repetition_penalty": rng.choice((1.0, 1.4)),
        "min_tokens": rng.choice((0, 6)),
        "logit_bias": rng.choice(((), ((3, 4.0), (11, -100.0), (3, 1.0)))),
    }


def test_every_mix_of_parameters_gives_the_plain_samplers_token() -> None:
    """120 rows at once, each as the plain sampler takes it alone."""
    rng, rows, vocabulary = Random(11), 120, 64
    samples, drawn = [], []
    for index in range(rows):
        prompt, generated = (tuple(rng.randrange(vocabulary) for _ in range(rng.randint(1, 20))) for _ in range(2))
        allowed = np.array([rng.getrandbits(31) | 1, rng.getrandbits(31)], dtype=np.int32) if rng.random() < 0.3 else None
        params = SamplingParams(max_tokens=99, **random_params(rng))
        history = History(np.array(prompt + generated, dtype=np.int32), len(prompt))
        samples.append(Sample(0, params, index % 3, index % 9, history, allowed))
        drawn.append(Drawn(index % 9, prompt, generated, allowed))
    logits = random_logits(rows, vocabulary, seed=4)
    tokens = choose(logits, samples, None, EOS).tokens.tolist()
    noise = gumbel_noise(samples, vocabulary, CPU).numpy()
    plain = [pick(logits[row].double().numpy(), noise[row], samples[row].params, drawn[row], EOS) for row in range(rows)]
    assert tokens == plain


def test_a_row_alone_samples_what_it_samples_in_company() -> None:
    rng = Random(12)
    samples = [make_sample(index, prompt=(1, 2), generated=(5,) * index, **random_params(rng)) for index in range(16)]
    logits = random_logits(16, 2 * LOOKED_AT, seed=9)
    together = choose(logits, samples, None, EOS).tokens.tolist()
    assert [int(choose(logits[row : row + 1], samples[row : row + 1], None, EOS).tokens) for row in range(16)] == together


# --- the distribution

LOGITS = [2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5, 0.2]
CHI_SQUARE = {2: 15.20, 3: 17.73, 4: 20.00, 5: 22.11, 7: 26.02}
"""0.9995 quantiles by degrees of freedom. Seeds are fixed: a test that passes cannot flake."""


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, 8),
        ({"temperature": 0.7}, 8),
        ({"top_k": 4}, 4),
        ({"top_p": 0.8}, 4),
        ({"min_p": 0.2}, 4),
        ({"top_k": 6, "top_p": 0.9, "min_p": 0.2, "temperature": 1.3}, 5),
    ],
)
def test_samples_follow_the_truncated_softmax(params: dict[str, Any], kept: int) -> None:
    count = 8_000
    tokens = choose(torch.tensor(LOGITS).expand(count, -1), [make_sample(index, **params) for index in range(count)]).tokens
    scores = torch.tensor([LOGITS], dtype=torch.float64) / params.get("temperature", 1.0)
    truncate(scores, [SamplingParams(9, **params)])
    expected = scores[0].softmax(-1).numpy() * count
    observed = np.bincount(tokens.numpy(), minlength=len(LOGITS))
    inside = expected > 0
    assert int(inside.sum()) == kept
    assert not observed[~inside].any()
    statistic = float(((observed[inside] - expected[inside]) ** 2 / expected[inside]).sum())
    assert statistic < CHI_SQUARE[kept - 1]


def test_likeliest_tokens_among_equals_begin_with_the_lower_id() -> None:
    top = choose(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), [make_sample(temperature=0.0, top_logprobs=2)]).top
    assert top is not None
    assert [token for token, _ in top.by_row(1)[0]] == [1, 2]


def test_more_likeliest_tokens_than_there_are() -> None:
    top = choose(torch.zeros(1, 4), [make_sample(temperature=0.0, top_logprobs=20)]).top
    assert top is not None
    assert len(top.by_row(1)[0]) == 4
