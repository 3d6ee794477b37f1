"""A model from a local folder: checked files, quiet loading, proofs, and what identifies it on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from shared.errors import ConfigError, ModelRefused
from workers.attention import AttentionLayer
from workers.engine import KVSpec
from workers.kv_layout import ITEM_BYTES, kv_spec
from workers.proofs import check_config, position_limit, prove_layers, prove_packing, rope_settings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that has passed its proofs; its attention is ours, and not yet attached to a cache."""

    model: Any
    layers: tuple[AttentionLayer, ...]
    kv: KVSpec
    max_model_tokens: int
    eos_token_ids: frozenset[int]


def load_model(
    path: str | Path, *, device: torch.device, dtype: str, wire_dtype: str | None = None, max_model_tokens: int | None = None
) -> LoadedModel:
    """Loads the folder `path` and has the model prove itself.

    `wire_dtype` is by default the checkpoint's own dtype, so that workers of unlike dtypes agree without being told.
    Raises `ConfigError` for a bad option or a missing file, `ModelRefused` for a model that would be served wrong.
    """
    folder = Path(path)
    settings = _read_settings(folder)
    name = str(settings.get("model_type"))
    weights = _weight_files(folder)
    with quiet_transformers(), _refusals_named(name):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        wire = _item_dtype("wire_dtype", wire_dtype or str(config.get_text_config().dtype or "float32").removeprefix("torch."))
        check_config(config)
        limit = position_limit(config, max_model_tokens)
        model = _load_weights(folder, config, dtype, device)
        layers = prove_layers(model, limit)
        prove_packing(model, layers, getattr(torch, dtype), limit)
    positions = {"model_type": name, "rope": rope_settings(config.get_text_config(decoder=True))}
    kv = kv_spec([layer.kv for layer in layers], wire, weights_digest(weights), positions)
    return LoadedModel(model, layers, kv, limit, _eos_token_ids(model))


def weights_digest(files: list[Path]) -> bytes:
    """Digest of the weight files' contents in order of name: an identity, not a signature (xxh3, some 10 GB/s)."""
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while piece := stream.read(1 << 24):
                digest.update(piece)
    return digest.digest()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it transformers says nothing below an error and draws no progress bars; afterwards it is as before."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _refusals_named(model_type: str) -> Iterator[None]:
    """Gives every refusal the model's name, and turns whatever else a proof ran into into a refusal."""
    try:
        yield
    except ModelRefused as refusal:
        raise ModelRefused(f"model type {model_type!r} is refused: {refusal}") from None
    except ConfigError:
        raise
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise ModelRefused(
            f"model type {model_type!r} is refused: it does not load or run packed ({type(error).__name__}: {first})"
        ) from error


def _read_settings(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"no model at {folder}: config.json is missing; give a folder as save_pretrained writes it")
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    name = settings.get("model_type")
    if name not in CONFIG_MAPPING:
        raise ModelRefused(f"model type {name!r} is refused: transformers does not know it, and remote code is never run")
    return settings


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ["model.safetensors"]
    names = sorted(set(shards))
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name} is missing; fetch it, or convert other formats with save_pretrained (safetensors only)")
    return [folder / name for name in names]


def _load_weights(folder: Path, config: Any, dtype: str, device: torch.device) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=getattr(torch, _item_dtype("dtype", dtype)),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if absent := sorted(info["missing_keys"]) or sorted(map(str, info["mismatched_keys"])):
        raise ModelRefused(f"its checkpoint lacks {len(absent)} weights, the first is {absent[0]}")
    return model.eval().to(device)


def _item_dtype(option: str, name: str) -> str:
    if name not in ITEM_BYTES:
        raise ConfigError(f"{option} must be one of {', '.join(ITEM_BYTES)}, got {name!r}")
    return name


def _eos_token_ids(model: Any) -> frozenset[int]:
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = getattr(model.config.get_text_config(decoder=True), "eos_token_id", None)
    return frozenset() if found is None else frozenset([found] if isinstance(found, int) else found)
