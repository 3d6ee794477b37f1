"""Streams whose whole answer is known beforehand: the engine without a model says it from the prompt alone."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

from shared.types import SamplingParams
from tests.machine.door import Door, Wrong
from workers.detokenizer import SafeText
from workers.fake_engine import FakeModel, reference_tokens
from workers.hf_detokenizer import HfDetokenizer

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
MODEL = FakeModel(vocab_size=2048, eos_token_ids=frozenset({1}), max_model_tokens=2048)
TOKENS = 300


def prompt(number: int) -> list[int]:
    return [10 + number % 1000, 300 + number // 1000, 400 + number % 1000]


@cache
def right_text(number: int) -> str:
    asked = tuple(prompt(number))
    text = SafeText(HfDetokenizer(WEIGHTS).open(asked), ())
    tokens = reference_tokens(asked, SamplingParams(TOKENS, temperature=0.0, ignore_eos=True), MODEL)
    return "".join(text.push(token).text for token in tokens) + text.finish().text


class KnownStream:
    """One stream, over as many connections as it takes; the door raises if an event is missing or comes twice."""

    def __init__(self, door: Door, number: int, model: str) -> None:
        self._door, self.number, self._model = door, number, model
        self.begun = asyncio.Event()
        """It has had some tokens."""
        self.text = ""
        self.events = 0

    async def listen(self) -> None:
        """Raises `Lost`, `Wrong`."""
        body: dict[str, Any] = {"model": self._model, "prompt": prompt(self.number), "max_tokens": TOKENS}
        body |= {"temperature": 0, "ignore_eos": True, "stream": True}
        async for event in self._door.events("/v1/completions", body, f"key-{self.number}"):
            if "error" in event:
                raise Wrong(f"{self.number}: {event}")
            self.text += event["choices"][0]["text"]
            self.events += 1
            if self.events >= 20:
                self.begun.set()

    @property
    def is_right(self) -> bool:
        """What was told, so far or in all."""
        return right_text(self.number).startswith(self.text)

    @property
    def is_whole(self) -> bool:
        return self.text == right_text(self.number)
