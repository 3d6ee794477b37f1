"""The right answer to a request, known before anybody computes it; and the simulator's own trivial detokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from shared.types import FinishReason, RequestSpec, SamplingParams
from workers.detokenizer import TokenStream
from workers.engine import TopLogprobs
from workers.fake_engine import FakeModel, reference_samples

FAKE_MODEL = FakeModel(vocab_size=1000, eos_token_ids=frozenset(range(0, 1000, 40)), max_model_tokens=512)
"""One token in forty ends an answer."""

ALPHABET = "etaoinshrdlu"
"""Few letters, so that stop strings are near misses all the time."""


class Letters:
    """Token id to one letter: a `Detokenizer` and its own `TokenStream`."""

    def open(self, prompt: tuple[int, ...]) -> TokenStream:
        return self

    def step(self, token_id: int) -> str:
        return letter(token_id)

    def rest(self) -> str:
        return ""


def letter(token_id: int) -> str:
    return ALPHABET[token_id % len(ALPHABET)]


@dataclass(frozen=True, slots=True)
class Answer:
    token_ids: tuple[int, ...]
    """Including the token that completed a stop string."""
    text: str
    """Up to the stop string, if one was met."""
    finish: FinishReason
    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...]
    """Each of its own token; `top_logprobs` is empty where none were asked for."""


@lru_cache(maxsize=256)
def _reference(prompt: tuple[int, ...], sampling: SamplingParams, choice: int) -> tuple[tuple[int, float, TopLogprobs], ...]:
    return reference_samples(prompt, sampling, FAKE_MODEL, choice=choice)


def expected_answers(spec: RequestSpec) -> tuple[Answer, ...]:
    """Of each choice."""
    return tuple(expected_answer(spec, choice) for choice in range(spec.sampling.n))


def expected_answer(spec: RequestSpec, choice: int = 0) -> Answer:
    """Written apart from the output stage on purpose: the whole text is known, so nothing has to be held back."""
    samples = _reference(spec.prompt, replace(spec.sampling, stop=()), choice)
    token_ids, logprobs = tuple(token for token, _, _ in samples), tuple(logprob for _, logprob, _ in samples)
    likeliest = tuple(top for _, _, top in samples) if spec.sampling.top_logprobs else ()
    finish = FinishReason.STOP if token_ids[-1] in FAKE_MODEL.eos_token_ids else FinishReason.LENGTH
    text = "".join(letter(token_id) for token_id in token_ids)
    ends = [at + len(stop) for stop in spec.sampling.stop if (at := text.find(stop)) >= 0]
    if not ends:
        return Answer(token_ids, text, finish, logprobs, likeliest)
    seen = text[: min(ends)]
    cut = min(at for stop in spec.sampling.stop if (at := seen.find(stop)) >= 0)
    length = len(seen)
    return Answer(token_ids[:length], seen[:cut], FinishReason.STOP, logprobs[:length], likeliest[:length])
