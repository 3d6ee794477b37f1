"""What every engine promises under a grammar, fake or real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shared import grammar
from shared.errors import EngineError
from shared.types import SamplingParams
from tests.support.constrained import ENGINES, EOS, PROMPT, VOCABULARY, Driver, parsed, sampled, sequence, text, tokens, write_byte_model
from tests.support.schemas import schemas
from workers.engine import Engine
from workers.fake_engine import FakeEngine, FakeModel, reference_tokens
from workers.grammar import Grammars
from workers.torch_engine import TorchEngine

DEMO = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
POINT = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["point", "place"]},
        "at": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    },
    "required": ["kind", "at"],
    "additionalProperties": False,
}
POINT_GRAMMAR = grammar.json_schema(POINT, strict=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module", params=list(ENGINES))
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    with closing(ENGINES[request.param](folder)) as engine:
        yield engine


def answered(engine: Engine, sampling: SamplingParams) -> tuple[int, ...]:
    one = sequence(sampling)
    Driver(engine).finish(one)
    return tokens(one)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=schemas(), seed=st.integers(0, 2**31))
def test_any_answer_matches_its_schema(engine: Engine, folder: Path, schema: dict[str, object], seed: int) -> None:
    one = sequence(sampled(grammar.json_schema(schema, strict=True), seed, max_tokens=1200))
    Driver(engine).finish(one)
    Draft202012Validator(schema).validate(parsed(folder, one))


def test_the_answer_ends_by_itself_when_the_grammar_is_complete(engine: Engine, folder: Path) -> None:
    one = sequence(sampled(grammar.regex("(yes|no)!"), seed=3))
    Driver(engine).finish(one)
    assert text(folder, one) in ("yes!", "no!")
    assert tokens(one)[-1] in EOS


def test_company_without_a_grammar_is_left_alone(engine: Engine) -> None:
    free = SamplingParams(12, 1.0, seed=5, ignore_eos=True)
    alone = sequence(free)
    Driver(engine).finish(alone, stop_at=12)
    beside, bound = sequence(free, 200), sequence(sampled(POINT_GRAMMAR, 1))
    Driver(engine).finish(beside, bound, stop_at=12)
    assert tokens(beside)[:12] == tokens(alone)[:12]


def test_equal_requests_side_by_side_answer_as_one_alone(engine: Engine) -> None:
    expected = answered(engine, sampled(POINT_GRAMMAR, 7))
    twins = [sequence(sampled(POINT_GRAMMAR, 7), at * 130) for at in range(2)]
    Driver(engine).finish(*twins)
    assert [tokens(one) for one in twins] == [expected, expected]


def test_two_steps_deep_the_mask_follows_the_token_that_is_not_known_yet(engine: Engine) -> None:
    expected = answered(engine, sampled(POINT_GRAMMAR, 11))
    one = sequence(sampled(POINT_GRAMMAR, 11))
    Driver(engine).finish_two_deep(one)
    assert tokens(one) == expected


@pytest.mark.parametrize("cut", [1, 15])
def test_an_answer_that_moved_in_the_middle_goes_on_as_if_it_had_not(engine: Engine, folder: Path, cut: int) -> None:
    """The other engine knows the tokens alone."""
    expected = answered(engine, sampled(POINT_GRAMMAR, 13))
    name = "fake" if isinstance(engine, FakeEngine) else "torch"
    with closing(ENGINES[name](folder)) as other:
        moved = sequence(sampled(POINT_GRAMMAR, 13), 100, expected[:cut])
        Driver(other).finish(moved)
    assert tokens(moved) == expected


def test_greedy_takes_the_likeliest_of_what_is_allowed(engine: Engine, folder: Path) -> None:
    one = sequence(sampled(grammar.regex("[a-z]{4}"), temperature=0.0))
    Driver(engine).finish(one)
    assert text(folder, one).islower()
    assert len(text(folder, one)) == 4


def test_a_grammar_that_does_not_compile_fails_the_step_and_the_next_one_works(engine: Engine) -> None:
    driver = Driver(engine)
    with pytest.raises(EngineError, match="compile"):
        driver.finish(sequence(sampled(grammar.json_schema({"type": "string", "pattern": "(?=a)"}, strict=True))))
    driver.previous = None
    assert answered(engine, sampled(POINT_GRAMMAR, 13))[-1] in EOS


def test_the_fake_engines_answer_is_its_definition(folder: Path) -> None:
    model = FakeModel(vocab_size=VOCABULARY, eos_token_ids=frozenset(EOS), max_model_tokens=2048)
    with closing(ENGINES["fake"](folder)) as engine, closing(Grammars(folder / "tokenizer.json", EOS)) as grammars:
        params = sampled(POINT_GRAMMAR, 17)
        mask = lambda answer: grammars.allowed(POINT_GRAMMAR, np.array(answer, dtype=np.int32))  # noqa: E731
        assert answered(engine, params) == reference_tokens(PROMPT, params, model, allowed=mask)


def test_an_engine_without_a_tokenizer_refuses_a_grammar() -> None:
    with closing(FakeEngine(FakeModel(vocab_size=VOCABULARY))) as engine, pytest.raises(EngineError, match="no tokenizer"):
        Driver(engine).finish(sequence(sampled(POINT_GRAMMAR)))


def test_the_demo_model_answers_in_json() -> None:
    """Trained weights and a vocabulary of words: masks cut through tokens of many bytes."""
    with closing(TorchEngine(DEMO, block_tokens=16, kv_bytes=2**23)) as engine:
        answers = []
        for seed in range(3):
            one = sequence(sampled(POINT_GRAMMAR, seed), blocks=64)
            Driver(engine).finish(one, eos=engine.eos_token_ids)
            assert tokens(one)[-1] in engine.eos_token_ids
            answers.append(json.loads(text(DEMO, one)))
        assert all(Draft202012Validator(POINT).is_valid(answer) for answer in answers)
