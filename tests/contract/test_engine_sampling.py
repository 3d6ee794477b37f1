"""Every sampling parameter, on every engine: what a parameter forces must happen, and nothing but the tokens may decide it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from tests.support.engine_driver import ENGINES, Driver, answer
from workers.engine import Engine
from workers.sequence import Sequence

EOS = 0
SURE = 10_000.0
"""Beyond what any logit weighs."""


@pytest.fixture(scope="module", params=[factory for _, factory in ENGINES], ids=[name for name, _ in ENGINES])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with closing(request.param(16, 64)) as engine:
        yield engine


def generate(engine: Engine, count: int = 6, length: int = 40, **sampling: Any) -> list[int]:
    driver = Driver(engine)
    return driver.generate(driver.sequence(length, **sampling), count)


def test_a_bias_decides(engine: Engine) -> None:
    greedy = generate(engine, 1)[0]
    assert generate(engine, 3, logit_bias=((7, SURE),)) == [7, 7, 7]
    assert generate(engine, 1, logit_bias=((greedy, -SURE),)) != [greedy]
    assert generate(engine, 3, logit_bias=((7, SURE),), temperature=1.0, top_k=3) == [7, 7, 7]


def test_a_bias_outside_the_vocabulary_is_none(engine: Engine) -> None:
    assert generate(engine, logit_bias=((1 << 30, SURE), (-1, SURE))) == generate(engine)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_are_sampled(engine: Engine, temperature: float) -> None:
    driver = Driver(engine)
    sequence = driver.sequence(40, temperature=temperature, logit_bias=((9, SURE),))
    mask = np.zeros(4, dtype=np.int32)
    mask[[5 // 32, 70 // 32]] = [1 << 5, 1 << (70 % 32)]
    for _ in range(4):
        driver.run([(sequence, sequence.left)], allowed=mask)
    assert set(answer(sequence)) <= {5, 70}


def test_no_end_before_min_tokens(engine: Engine) -> None:
    tokens = generate(engine, 5, min_tokens=3, logit_bias=((EOS, SURE),))
    assert EOS not in tokens[:3]
    assert tokens[3:] == [EOS, EOS]


def test_an_end_that_alone_is_allowed_is_not_held_back(engine: Engine) -> None:
    driver = Driver(engine)
    sequence = driver.sequence(40, min_tokens=3)
    driver.run([(sequence, 40)], allowed=np.array([1 << EOS, 0, 0, 0], dtype=np.int32))
    assert answer(sequence) == [EOS]


@pytest.mark.parametrize("penalty", [{"presence_penalty": SURE}, {"frequency_penalty": SURE}])
def test_a_penalty_on_what_was_generated_leaves_no_repeats(engine: Engine, penalty: dict[str, Any]) -> None:
    tokens = generate(engine, 24, **penalty)
    assert len(set(tokens)) == 24
    assert tokens[0] == generate(engine, 1)[0], "the prompt does not count"


def test_a_repetition_penalty_counts_the_prompt_too(engine: Engine) -> None:
    driver = Driver(engine)
    sequence = driver.sequence(12, repetition_penalty=SURE)
    tokens = driver.generate(sequence, 12)
    assert not set(tokens) & set(sequence.spec.prompt)
    assert len(set(tokens)) == 12


@pytest.mark.parametrize(
    "sampling", [{"frequency_penalty": SURE}, {"repetition_penalty": 1.3, "temperature": 1.0, "presence_penalty": 1.0}]
)
def test_penalties_two_steps_deep_count_the_token_that_is_not_known_yet(engine: Engine, sampling: dict[str, Any]) -> None:
    expected = generate(engine, 12, **sampling)
    driver = Driver(engine)
    sequence, beside = driver.sequence(40, **sampling), driver.sequence(20, 20, salt=2, **sampling)
    first = driver.launch([(beside, 20), (sequence, 40)])
    while sequence.num_generated < 11:
        second = driver.launch([(sequence, 1)])
        driver.collect(first)
        first = second
    driver.collect(first)
    assert answer(sequence) == expected


def test_a_choice_that_begins_anew_samples_the_same_tokens(engine: Engine) -> None:
    """As on another worker: its tokens are known, its KV is computed again."""
    sampling: dict[str, Any] = {
        "temperature": 0.9,
        "frequency_penalty": 0.7,
        "repetition_penalty": 1.2,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.01,
    }
    expected = generate(engine, 10, **sampling)
    driver = Driver(engine)
    sequence = driver.sequence(40, **sampling)
    driver.generate(sequence, 4)
    sequence.rewind()
    assert driver.generate(sequence, 10, chunk=7) == expected


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}])
def test_cut_to_the_best_token_sampling_is_greedy(engine: Engine, cut: dict[str, Any]) -> None:
    assert generate(engine, temperature=1.5, **cut) == generate(engine)


def test_company_and_chunks_do_not_change_what_is_sampled(engine: Engine) -> None:
    sampling: dict[str, Any] = {"temperature": 1.0, "top_k": 20, "top_p": 0.95, "frequency_penalty": 0.5}
    expected = generate(engine, **sampling)
    driver = Driver(engine)
    sequence, beside = driver.sequence(40, **sampling), driver.sequence(30, 20, salt=2, temperature=2.0, top_logprobs=3)
    while sequence.num_generated < 6:
        driver.run([(beside, min(4, beside.left)), (sequence, min(9, sequence.left))])
    assert answer(sequence) == expected


def test_choices_differ_where_there_is_chance(engine: Engine) -> None:
    drawn = [generate(engine, 8, choice=choice, temperature=1.0) for choice in range(4)]
    assert len(set(map(tuple, drawn))) == 4
    assert generate(engine, 8, choice=3, temperature=1.0) == drawn[3]
    assert generate(engine, 8, choice=3) == generate(engine, 8)


def test_choices_of_one_prompt_may_share_its_blocks(engine: Engine) -> None:
    """The second one begins behind the first one's whole blocks, in a step with its decode."""
    expected = [generate(engine, 6, choice=choice, temperature=1.0) for choice in range(2)]
    driver = Driver(engine)
    first, second = driver.sequence(40, temperature=1.0), driver.sequence(40, 20, choice=1, temperature=1.0)
    driver.run([(first, 40)])
    fork(second, first)
    while second.num_generated < 6:
        driver.run([(each, each.left) for each in (first, second) if each.num_generated < 6])
    assert [answer(first), answer(second)] == expected


def fork(sequence: Sequence, giver: Sequence) -> None:
    own = sequence.blocks[2:]
    sequence.fork_from(giver, 2, 16)
    sequence.blocks += own


def test_top_logprobs_are_the_models_best_first(engine: Engine) -> None:
    driver = Driver(engine)
    asks, drawn, other = (
        driver.sequence(40, top_logprobs=5),
        driver.sequence(40, 10, top_logprobs=3, temperature=2.0),
        driver.sequence(40, 20),
    )
    result = driver.run([(asks, 40), (drawn, 40), (other, 40)])
    best, fewer, none = result.top_logprobs
    assert (len(best), fewer, none) == (5, best[:3], ())
    assert best[0][0] == result.token_ids[0]
    assert best[0][1] == pytest.approx(result.logprobs[0], abs=1e-5)
    values = [logprob for _, logprob in best]
    assert values == sorted(values, reverse=True)
    assert len({token for token, _ in best}) == 5
    assert sum(np.exp(values)) <= 1.0 + 1e-5


def test_logprobs_are_of_the_raw_logits(engine: Engine) -> None:
    driver = Driver(engine)
    plain, edited = driver.sequence(40, top_logprobs=1), driver.sequence(40, 10, top_logprobs=1, logit_bias=((7, SURE),))
    result = driver.run([(plain, 40), (edited, 40)])
    assert result.token_ids[1] == 7
    assert result.top_logprobs[0] == result.top_logprobs[1]
    assert result.logprobs[1] < result.logprobs[0]


def test_who_asks_for_nothing_gets_nothing(engine: Engine) -> None:
    driver = Driver(engine)
    assert driver.run([(driver.sequence(40), 40)]).top_logprobs == ()
