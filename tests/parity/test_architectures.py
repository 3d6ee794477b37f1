"""Every served architecture, with a head start: cut at a granule, handed to blocks of another size, finished in a mixed batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.types import GRANULE_TOKENS, TokenSpan
from tests.parity.conftest import KV_BYTES
from tests.parity.driver import Driver, hand_over
from tests.support.tiny_configs import WINDOW, tiny_config
from tests.support.tiny_models import SERVED, VARIANTS, prompt_of, reference, save_tiny
from workers.model_loader import load_model
from workers.torch_engine import TorchEngine

COUNT = 6
PROMPT_TOKENS = GRANULE_TOKENS + WINDOW + 5
CHUNKS = (7, 19, 64)
CASES: dict[str, tuple[str, dict[str, Any]]] = {model_type: (model_type, {}) for model_type in SERVED} | VARIANTS


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two workers of a case run one after the other on one loaded model: half the time, the same computation."""
    monkeypatch.setattr("workers.torch_engine.load_model", functools.cache(load_model))


@contextmanager
def worker(folder: Path, block_tokens: int) -> Iterator[Driver]:
    """An engine whose cache is poisoned, so that a read of what was never written shows."""
    with closing(TorchEngine(folder, block_tokens=block_tokens, kv_bytes=KV_BYTES)) as engine:
        engine._cache.data.fill_(torch.nan)
        yield Driver(engine)


@pytest.mark.parametrize("case", CASES)
def test_a_head_start_changes_nothing(case: str, tmp_path: Path) -> None:
    model_type, changes = CASES[case]
    folder = save_tiny(model_type, tmp_path, config=tiny_config(model_type, **changes))
    model = reference(folder)
    with worker(folder, 32) as low:
        given = low.add(prompt_of(PROMPT_TOKENS), COUNT, scattered=True)
        low.prefill(given, GRANULE_TOKENS, chunk=50)
    with worker(folder, 16) as high:
        for salt, length in enumerate((3, WINDOW + 1), start=1):
            high.add(prompt_of(length, salt), COUNT, scattered=salt == 1)
        taken = high.add(prompt_of(PROMPT_TOKENS), COUNT)
        hand_over(low.engine, given, high.engine, taken, TokenSpan(0, GRANULE_TOKENS))
        high.run(COUNT, CHUNKS)
    for request in high.requests:
        assert request.generated == model.greedy(request.tokens[: request.num_prompt], COUNT)
        assert request.logprobs == pytest.approx(model.logprobs(request.tokens, request.num_prompt), abs=1e-4)
    assert len({token for request in high.requests for token in request.generated}) > COUNT, "outputs that do not vary prove little"
