"""The proofs refuse models that are wrong in ways that no name tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.errors import ModelRefused
from tests.support.planted_models import PLANTS, planted
from workers.model_loader import load_model

REASONS = {
    "shifting": "log-probabilities differ from the unpacked model's",
    "remembering": "log-probabilities differ from the unpacked model's",
    "counting": r"keeps state from one forward to the next \(model.embed_tokens.calls\)",
    "crowding": "log-probabilities differ from the unpacked model's",
    "longest neighbour": "log-probabilities differ from the unpacked model's",
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_wrong_model_is_refused(name: str, tmp_path: Path) -> None:
    with planted(name, tmp_path) as folder, pytest.raises(ModelRefused, match=f"'planted' is refused: .*{REASONS[name]}"):
        load_model(folder, device=torch.device("cpu"), dtype="float32")


def test_without_its_fault_it_would_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANTS, "none", lambda model: None)
    with planted("none", tmp_path) as folder:
        assert len(load_model(folder, device=torch.device("cpu"), dtype="float32").layers) == 2
