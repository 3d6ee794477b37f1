"""A tiny model whose tokens are bytes, its engines, and steps under a grammar without a core."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from tokenizers import Tokenizer
from transformers import LlamaConfig

from shared.types import BlockId, RequestId, RequestSpec, SamplingParams
from tests.support.tiny_models import LLAMA_LIKE, save_tiny
from tests.support.tokenizer_dirs import byte_backend
from workers.batching import PlannedStep, StepBuilder
from workers.engine import Engine
from workers.fake_engine import FakeEngine, FakeModel
from workers.grammar import Grammars
from workers.sequence import Sequence
from workers.torch_engine import TorchEngine

MARKS = ("<|end|>", "<|also|>", "<|user|>", "<|assistant|>")
EOS = (256, 257)
VOCABULARY = 272
"""More than the tokenizer has: models pad their embeddings."""
BLOCK = 16
TOTAL_BLOCKS = 512
PROMPT = tuple(b"Say it in JSON.")


def write_byte_model(folder: Path) -> Path:
    """Weights, tokenizer and two end-of-sequence tokens."""
    config = LlamaConfig(
        **{**LLAMA_LIKE, "vocab_size": VOCABULARY, "eos_token_id": list(EOS), "num_hidden_layers": 1, "max_position_embeddings": 2048}
    )
    save_tiny("llama", folder, config=config)
    byte_backend(*MARKS).save(str(folder / "tokenizer.json"))
    return folder


def fake_engine(folder: Path) -> Engine:
    model = FakeModel(vocab_size=VOCABULARY, eos_token_ids=frozenset(EOS), max_model_tokens=2048)
    grammars = Grammars(folder / "tokenizer.json", EOS)
    return FakeEngine(model, block_tokens=BLOCK, total_blocks=TOTAL_BLOCKS, grammars=grammars)


def torch_engine(folder: Path) -> Engine:
    return TorchEngine(folder, block_tokens=BLOCK, kv_bytes=TOTAL_BLOCKS * BLOCK * 256)


ENGINES = {"fake": fake_engine, "torch": torch_engine}


def sequence(sampling: SamplingParams, first_block: int = 0, generated: tuple[int, ...] = (), blocks: int = 128) -> Sequence:
    """A request with room for its whole answer; `generated` came from elsewhere."""
    made = Sequence(RequestSpec(RequestId("r"), "m", PROMPT, sampling, 0), generated, 0, max_tokens=2048)
    made.blocks = [BlockId(first_block + at) for at in range(min(blocks, -(-made.max_tokens // BLOCK)))]
    return made


def sampled(grammar: str, seed: int = 0, max_tokens: int = 400, temperature: float = 1.0) -> SamplingParams:
    return SamplingParams(max_tokens, temperature, seed=seed, grammar=grammar)


class Driver:
    """Runs sequences to their ends, one or two steps deep."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.steps = 0
        self.previous: PlannedStep | None = None

    def launch(self, *sequences: Sequence) -> PlannedStep:
        self.steps += 1
        builder = StepBuilder(self.steps, block_tokens=BLOCK, token_budget=4096, max_rows=64, previous=self.previous)
        for one in sequences:
            builder.add(one, one.left)
        step = builder.build()
        assert step is not None
        self.engine.launch(step.plan)
        self.previous = step
        return step

    def collect(self, step: PlannedStep) -> None:
        result = self.engine.collect()
        for row in step.rows:
            row.sequence.computed(row.count)
            row.sequence.append(result.token_ids[row.sample])
        self.previous = None if self.previous is step else self.previous

    def finish(self, *sequences: Sequence, stop_at: int = 10**6, eos: Collection[int] = EOS) -> None:
        """One step deep, until each has ended or has `stop_at` tokens."""
        while going := [one for one in sequences if not ended(one, eos) and one.num_generated < stop_at]:
            self.collect(self.launch(*going))

    def finish_two_deep(self, one: Sequence) -> None:
        """The next step is launched before the last one's token is known; what follows the end is nobody's."""
        first = self.launch(one)
        while True:
            second = self.launch(one) if one.left else None
            self.collect(first)
            if ended(one) or second is None:
                if second is not None:
                    self.engine.collect()
                return
            first = second


def ended(one: Sequence, eos: Collection[int] = EOS) -> bool:
    return one.num_generated > 0 and (tokens(one)[-1] in eos or one.num_tokens >= one.max_tokens)


def tokens(one: Sequence) -> tuple[int, ...]:
    return tuple(int(token) for token in one.ids(one.num_prompt, one.num_tokens))


def text(folder: Path, one: Sequence) -> str:
    """The answer's text; an end-of-sequence token has none."""
    decoded: str = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(list(tokens(one)), skip_special_tokens=True)
    return decoded


def parsed(folder: Path, one: Sequence) -> object:
    """The answer as JSON; it ended by itself."""
    assert tokens(one)[-1] in EOS, f"cut: {text(folder, one)!r}"
    return json.loads(text(folder, one))
