"""The noise is a function of its name alone, and Gumbel-max over it samples the model's distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.types import SamplingParams
from workers.engine import Sample
from workers.noise import noise_bits, noise_key
from workers.sampling import choose

CPU = torch.device("cpu")


def sample(index: int = 0, *, seed: int = 7, choice: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> Sample:
    return Sample(0, SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, seed=seed), choice, index)


def draw(logits: list[float], count: int, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 7) -> list[int]:
    rows = torch.tensor(logits).expand(count, -1)
    tokens, *_ = choose(rows, [sample(index, seed=seed, temperature=temperature, top_p=top_p) for index in range(count)])
    return [int(token) for token in tokens]


def chi_square(tokens: list[int], expected: torch.Tensor) -> float:
    counts = np.bincount(tokens, minlength=len(expected))
    wanted = expected.double().numpy() * len(tokens)
    return float(((counts - wanted) ** 2 / wanted).sum())


def reference_hash(key: int, vocabulary_id: int) -> int:
    """The documented hash in plain integers."""

    def mix32(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
        x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    return mix32(key >> 32 ^ mix32((key & 0xFFFFFFFF) + vocabulary_id * 0x9E3779B1 & 0xFFFFFFFF))


def test_the_integer_part_is_the_documented_hash() -> None:
    bits = noise_bits([sample(index, seed=seed) for index, seed in ((0, 0), (5, -3), (9, 2**63 + 1))], 1000, CPU)
    for row, (index, seed) in enumerate(((0, 0), (5, -3), (9, 2**63 + 1))):
        key = noise_key(seed, 0, index)
        assert [int(b) & 0xFFFFFFFF for b in bits[row]] == [reference_hash(key, v) for v in range(1000)]


def test_the_key_is_pinned() -> None:
    """Changing the hash changes the continuation of every sampled request across a mixed deployment."""
    assert noise_key(0, 0, 0) == noise_key(2**64, 0, 0)
    assert [noise_key(1, 2, 3), noise_key(-1, 0, 0)] == [0xD0734750FDE362B3, 0xFC042709560421DA]


def test_every_part_of_the_name_matters() -> None:
    names = [sample(), sample(1), sample(seed=8), sample(choice=1)]
    bits = noise_bits(names, 64, CPU)
    for row in range(1, len(names)):
        assert (bits[0] != bits[row]).float().mean() > 0.95


def test_noise_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    names = [sample(index, temperature=0.8, top_p=0.9) for index in range(5)]
    together, logprobs, _ = choose(logits, names)
    for row, name in enumerate(names):
        alone, logprob, _ = choose(logits[row : row + 1], [name])
        assert int(alone[0]) == int(together[row])
        assert float(logprob[0]) == pytest.approx(float(logprobs[row]), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax(temperature: float) -> None:
    logits = [2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5, 0.2]
    tokens = draw(logits, 20_000, temperature=temperature)
    # 26.02 is the 0.9995 quantile of chi-square with 7 degrees of freedom; the seed is fixed, so this cannot flake.
    assert chi_square(tokens, (torch.tensor(logits) / temperature).softmax(-1)) < 26.02


def test_choices_are_independent() -> None:
    """Pairs of draws of two choices follow the product distribution."""
    rows = torch.zeros(20_000, 4)
    first, *_ = choose(rows, [sample(index) for index in range(20_000)])
    second, *_ = choose(rows, [sample(index, choice=1) for index in range(20_000)])
    pairs = [int(pair) for pair in first * 4 + second]
    assert chi_square(pairs, torch.full((16,), 1 / 16)) < 39.72  # 0.9995 quantile, 15 degrees of freedom


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.3, 0.2])
    tokens = draw(probabilities.log().tolist(), 4000, top_p=0.65)
    assert set(tokens) == {1, 2}
    assert chi_square([token - 1 for token in tokens], torch.tensor([4 / 7, 3 / 7])) < 12.12


@pytest.mark.parametrize("top_p", [1e-9, 0.0])
def test_the_most_probable_id_always_stays(top_p: float) -> None:
    assert set(draw([0.0, 3.0, 1.0], 50, top_p=top_p)) == {1}


def test_among_equals_the_nucleus_keeps_lower_ids() -> None:
    assert set(draw([0.0] * 8, 200, top_p=0.25)) == {0, 1}


def test_greedy_and_sampled_rows_mix() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    tokens, logprobs, _ = choose(logits, [sample(row, temperature=0.0 if row % 2 else 1.5) for row in range(4)])
    best = logits.argmax(-1)
    assert [int(tokens[row]) for row in (1, 3)] == [int(best[row]) for row in (1, 3)]
    wanted = logits.log_softmax(-1)
    assert logprobs.tolist() == pytest.approx([float(wanted[row, token]) for row, token in enumerate(tokens)], abs=1e-6)


def test_no_rows() -> None:
    tokens, logprobs, _ = choose(torch.zeros(0, 10), [])
    assert tokens.tolist() == logprobs.tolist() == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_the_same_bits() -> None:
    names = [sample(index, seed=index * 2**40) for index in range(8)]
    assert noise_bits(names, 50_000, torch.device("cuda")).cpu().equal(noise_bits(names, 50_000, CPU))
