"""Checkpoints and engines that are shared by the parity tests of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.tiny_models import Reference, reference, save_tiny
from workers.torch_engine import TorchEngine

KV_BYTES = 1 << 21

EngineOf = Callable[[str, int], TorchEngine]


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """Reference of a model type, made once."""
    made: dict[str, Reference] = {}

    def get(model_type: str) -> Reference:
        if model_type not in made:
            made[model_type] = reference(save_tiny(model_type, tmp_path_factory.mktemp(model_type)))
        return made[model_type]

    return get


@pytest.fixture(scope="session")
def engine_of(checkpoint_of: Callable[[str], Reference]) -> Iterator[EngineOf]:
    """Engine of a model type and block size, made once; its cache is poisoned so that stale reads show."""
    made: dict[tuple[str, int], TorchEngine] = {}

    def get(model_type: str, block_tokens: int) -> TorchEngine:
        key = (model_type, block_tokens)
        if key not in made:
            path: Path = checkpoint_of(model_type).path
            made[key] = TorchEngine(path, block_tokens=block_tokens, kv_bytes=KV_BYTES)
            made[key]._cache.data.fill_(torch.nan)
        return made[key]

    yield get
    for engine in made.values():
        engine.close()
