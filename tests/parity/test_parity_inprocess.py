"""Packed, chunked, cut and handed over: the tokens are `generate()`'s and the log-probabilities the full forward's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.types import GRANULE_TOKENS, TokenSpan, whole_granules
from tests.parity.conftest import EngineOf
from tests.parity.driver import Driver, Served, hand_over
from tests.support.tiny_models import WINDOW, Reference, prompt_of

ReferenceOf = Callable[[str], Reference]

FOUR = ["llama", "qwen3", "mistral", "gemma3_text"]
COUNT = 12
CUT_PROMPT = 5 * GRANULE_TOKENS + 9
CHUNKS = (19, 5, 64, 1, 33)


def assert_same(request: Served, model: Reference) -> None:
    """The request's tokens and log-probabilities are the unpacked model's."""
    prompt = request.tokens[: request.num_prompt]
    assert request.generated == model.greedy(prompt, COUNT)
    assert request.logprobs == pytest.approx(model.logprobs(request.tokens, request.num_prompt), abs=1e-4)


@pytest.mark.parametrize("model_type", FOUR)
def test_chunked_prefills_mixed_with_decodes(model_type: str, engine_of: EngineOf, checkpoint_of: ReferenceOf) -> None:
    driver = Driver(engine_of(model_type, 16))
    lengths = [1, 2, 15, 16, 17, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 130]
    for salt, length in enumerate(lengths):
        driver.add(prompt_of(length, salt), COUNT, scattered=salt % 2 == 0)
    driver.run(COUNT, CHUNKS)
    for request in driver.requests:
        assert_same(request, checkpoint_of(model_type))


@pytest.mark.parametrize("cut", range(GRANULE_TOKENS, CUT_PROMPT, GRANULE_TOKENS))
def test_handed_over_at_every_granule(cut: int, engine_of: EngineOf, checkpoint_of: ReferenceOf) -> None:
    check_hand_over("llama", cut, engine_of, checkpoint_of)


@pytest.mark.parametrize("model_type", FOUR[1:])
@pytest.mark.parametrize("cut", [GRANULE_TOKENS, 3 * GRANULE_TOKENS, whole_granules(CUT_PROMPT - 1)])
def test_handed_over_at_a_spread_of_cuts(model_type: str, cut: int, engine_of: EngineOf, checkpoint_of: ReferenceOf) -> None:
    check_hand_over(model_type, cut, engine_of, checkpoint_of)


def check_hand_over(model_type: str, cut: int, engine_of: EngineOf, checkpoint_of: ReferenceOf) -> None:
    """A low-end with blocks of 32 computes `[0, cut)`; a high-end with blocks of 16 goes on beside two of its own requests."""
    low, high = Driver(engine_of(model_type, 32)), Driver(engine_of(model_type, 16))
    prompt = prompt_of(CUT_PROMPT, salt=cut)
    given = low.add(prompt, COUNT, scattered=cut % 128 == 0)
    low.prefill(given, cut, chunk=50)
    for salt, length in enumerate((3, 40)):
        high.add(prompt_of(length, 90 + salt), COUNT)
    taken = high.add(prompt, COUNT, scattered=cut % 128 != 0)
    hand_over(low.engine, given, high.engine, taken, TokenSpan(0, cut))
    high.run(COUNT, CHUNKS)
    for request in high.requests:
        assert_same(request, checkpoint_of(model_type))


def test_handed_over_in_two_transfers(engine_of: EngineOf, checkpoint_of: ReferenceOf) -> None:
    low, high = Driver(engine_of("llama", 64)), Driver(engine_of("llama", 16))
    prompt = prompt_of(CUT_PROMPT)
    given, taken = low.add(prompt, COUNT), high.add(prompt, COUNT, scattered=True)
    low.prefill(given, 4 * GRANULE_TOKENS, chunk=100)
    for start in (0, 2 * GRANULE_TOKENS):
        hand_over(low.engine, given, high.engine, taken, TokenSpan(start, start + 2 * GRANULE_TOKENS))
    high.run(COUNT, CHUNKS)
    assert_same(taken, checkpoint_of("llama"))


def test_wrong_kv_changes_the_answer(engine_of: EngineOf, checkpoint_of: ReferenceOf) -> None:
    """The oracle above can fail: another prompt's KV gives other tokens."""
    low, high = Driver(engine_of("llama", 32)), Driver(engine_of("llama", 16))
    given = low.add(prompt_of(CUT_PROMPT, salt=1), COUNT)
    low.prefill(given, 2 * GRANULE_TOKENS, chunk=50)
    prompt = prompt_of(CUT_PROMPT, salt=2)
    taken = high.add(prompt, COUNT)
    hand_over(low.engine, given, high.engine, taken, TokenSpan(0, 2 * GRANULE_TOKENS))
    high.run(COUNT, CHUNKS)
    assert taken.generated != checkpoint_of("llama").greedy(prompt, COUNT)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "gemma2", "gpt_oss", "mixtral"])
def test_side_by_side(model_type: str, engine_of: EngineOf, checkpoint_of: ReferenceOf) -> None:
    driver = Driver(engine_of(model_type, 16))
    for salt, length in enumerate((WINDOW + 20, 5, 33)):
        driver.add(prompt_of(length, salt), COUNT, scattered=salt == 0)
    driver.run(COUNT, CHUNKS)
    for request in driver.requests:
        assert_same(request, checkpoint_of(model_type))
    assert len({token for request in driver.requests for token in request.generated}) > COUNT, "outputs that do not vary prove little"
