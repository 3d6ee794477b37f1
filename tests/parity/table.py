"""Writes the table of `docs/models.md`: every causal language model of transformers, tried tiny: `python -m tests.parity.table`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from shared.errors import ModelRefused
from tests.support.tiny_configs import tiny_config
from tests.support.tiny_models import save_tiny
from workers.kv_layout import KVLayer
from workers.model_loader import load_model, quiet_transformers
from workers.proofs import check_config

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: python -m tests.parity.table -->", "<!-- end of table -->"
MOST_PARAMETERS = 5_000_000
"""What is not smaller than this was not made tiny, and is not tried."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model type: `verdict` is served, refused or not tried; `why` is what its layers are, or the reason."""

    model_type: str
    verdict: str
    why: str

    def __str__(self) -> str:
        return f"| `{self.model_type}` | {self.verdict} | {self.why} |"


def model_types() -> list[str]:
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def try_type(model_type: str) -> Row:
    """Loads a tiny random checkpoint of the type as a worker would. What its default configuration decides needs none."""
    with quiet_transformers():
        try:
            check_config(CONFIG_MAPPING[model_type]())
            config = tiny_config(model_type)
            if too_large := _too_large(config):
                return Row(model_type, "not tried", too_large)
        except ModelRefused as refusal:
            return Row(model_type, "refused", str(refusal))
        except Exception as error:
            return Row(model_type, "not tried", f"no tiny configuration was made: {type(error).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        return _load(model_type, config, Path(folder))


def _load(model_type: str, config: Any, folder: Path) -> Row:
    try:
        save_tiny(model_type, folder, config=config)
        loaded = load_model(folder, device=torch.device("cpu"), dtype="float32")
    except ModelRefused as refusal:
        return Row(model_type, "refused", str(refusal).partition("is refused: ")[2].replace("|", "\\|"))
    except Exception as error:
        return Row(model_type, "not tried", f"no tiny configuration was made: {type(error).__name__}")
    return Row(model_type, "**served**", _describe([layer.kv for layer in loaded.layers], loaded.model))


def _too_large(config: Any) -> str | None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    parts = sorted(set(config.sub_configs) - {"text_config"})
    if count <= MOST_PARAMETERS:
        return None
    return f"it has {', '.join(parts)} beside its text" if parts else "no tiny configuration was made: it has parts of a fixed size"


def _describe(layers: list[KVLayer], model: Any) -> str:
    """What is particular about the layers' attention, as the load-time trace found it."""
    windows = {layer.window is not None for layer in layers}
    said = ["full" if windows == {False} else "sliding" if windows == {True} else "sliding and full"]
    if any(layer.value_dim is not None for layer in layers):
        said.append("keys and values of unequal widths")
    if len({layer.shape for layer in layers}) > 1:
        said.append("layers of unlike shapes")
    if any("sink" in name for name, _ in model.named_parameters()):
        said.append("sinks")
    return ", ".join(said)


def table(rows: Iterable[Row]) -> str:
    lines = [str(row) for row in rows]
    counts = {verdict: sum(f"| {verdict} |" in line for line in lines) for verdict in ("**served**", "refused", "not tried")}
    said = ", ".join(f"{count} {verdict.strip('*')}" for verdict, count in counts.items())
    head = f"transformers {transformers.__version__}: {len(lines)} model types, {said}."
    return "\n".join([BEGIN, head, "", "| model type | verdict | attention, or the reason |", "|---|---|---|", *lines, END])


def main() -> None:
    """Tries every type and puts the table into its page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + table(try_type(model_type) for model_type in model_types()) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
