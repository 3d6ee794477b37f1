"""One tiny Llama checkpoint and one engine over it, shared by the tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny_models import save_tiny
from workers.torch_engine import TorchEngine


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def engine(llama: Path) -> Iterator[TorchEngine]:
    made = TorchEngine(llama, kv_bytes=1 << 21)
    yield made
    made.close()
