"""Seeded sampling in float32: the same tokens whatever the cut, the batch and the worker."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from shared.types import BlockId, RequestId, RequestSpec, SamplingParams, TokenSpan
from workers.batching import StepBuilder
from workers.sequence import Sequence
from workers.torch_engine import TorchEngine

SEQUENCES, LENGTH, TOKENS, BLOCKS = 64, 70, 80, 10
CUT = 64
TIES = 1e-4
"""Share of tokens that rounding may decide."""


def make_sequence(number: int) -> Sequence:
    prompt = tuple(1 + (number * 37 + at * at + 3 * at) % 97 for at in range(LENGTH))
    penalty = 0.3 * (number % 3)
    params = SamplingParams(TOKENS, seed=number // 4, top_p=(1.0, 0.95)[number % 2], frequency_penalty=penalty, ignore_eos=True)
    spec = RequestSpec(RequestId(f"r{number}"), "m", prompt, params, 0)
    sequence = Sequence(spec, (), number, max_tokens=512, choice=number % 4)
    sequence.blocks = [BlockId(number * BLOCKS + at) for at in range(BLOCKS)]
    return sequence


def run(engine: TorchEngine, sequences: list[Sequence], chunk: int = 512) -> None:
    """One step: up to `chunk` tokens of each."""
    builder = StepBuilder(1, block_tokens=16, token_budget=1 << 20, max_rows=1 << 10, previous=None)
    counts = [min(chunk, sequence.left) for sequence in sequences]
    for sequence, count in zip(sequences, counts, strict=True):
        builder.add(sequence, count)
    step = builder.build()
    assert step is not None
    engine.launch(step.plan)
    result = engine.collect()
    for row in step.rows:
        row.sequence.computed(row.count)
        if row.sample >= 0:
            row.sequence.append(result.token_ids[row.sample])


def finish(engine: TorchEngine, sequences: list[Sequence], chunk: int = 512) -> None:
    while going := [sequence for sequence in sequences if sequence.num_generated < TOKENS]:
        run(engine, going, chunk)


def answer(sequence: Sequence) -> list[int]:
    return [int(token) for token in sequence.ids(LENGTH, LENGTH + TOKENS)]


def move(giver: TorchEngine, owner: TorchEngine, sequence: Sequence) -> Sequence:
    """As a head start: computed there to the cut, pulled here."""
    taken, data = make_sequence(sequence.arrival), bytearray(CUT * giver.kv.bytes_per_token)
    giver.gather(tuple(sequence.blocks), TokenSpan(0, CUT), memoryview(data))
    owner.scatter(tuple(taken.blocks), TokenSpan(0, CUT), memoryview(data))
    taken.rewind(CUT)
    return taken


def agreed(one: list[int], other: list[int]) -> int:
    """Tokens before the two part: what follows is another text."""
    return int(np.argmin([*(a == b for a, b in zip(one, other, strict=True)), False]))


def test_the_same_tokens_whatever_the_cut_the_batch_and_the_worker(llama: Path) -> None:
    size = SEQUENCES * BLOCKS * 16 * 512
    with closing(TorchEngine(llama, kv_bytes=size)) as one, closing(TorchEngine(llama, kv_bytes=size)) as other:
        whole = [make_sequence(number) for number in range(SEQUENCES)]
        finish(one, whole)
        given = iter([make_sequence(number) for number in range(SEQUENCES)])
        moved: list[Sequence] = []
        for size in (5, 59):
            group = list(islice(given, size))
            run(one, group, CUT)
            group = [move(one, other, sequence) for sequence in group]
            finish(other, group, chunk=3)
            moved += group
    agreement = [agreed(answer(a), answer(b)) for a, b in zip(whole, moved, strict=True)]
    parted = sum(1 for tokens in agreement if tokens < TOKENS)
    assert len(moved) == SEQUENCES
    assert parted <= TIES * sum(agreement), f"{parted} rounding ties in {sum(agreement)} tokens"
    assert len({tuple(answer(sequence)) for sequence in whole}) == SEQUENCES
