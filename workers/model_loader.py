"""A model from a local folder: checked files, quiet loading, proofs, and what identifies it on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from shared.errors import ConfigError, ModelRefused
from workers.attention import AttentionLayer
from workers.checkpoint import read_settings, weight_files, weights_digest
from workers.engine import KVSpec
from workers.kv_layout import ITEM_BYTES, kv_spec
from workers.load_progress import LoadProgress, load_progress
from workers.model_state import unchanged_state
from workers.proofs import check_config, position_limit, prove_layers, prove_packing, rope_settings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that has passed its proofs; its attention is ours, and not yet attached to a cache."""

    model: Any
    layers: tuple[AttentionLayer, ...]
    kv: KVSpec
    max_model_tokens: int
    eos_token_ids: frozenset[int]
    dtype: str


def load_model(
    path: str | Path, *, device: torch.device, dtype: str, wire_dtype: str | None = None, max_model_tokens: int | None = None
) -> LoadedModel:
    """Loads the folder `path` and has the model prove itself.

    `dtype` `auto` is the checkpoint's own. `wire_dtype` is that by default, so that workers of unlike dtypes agree without
    being told.
    Raises `ConfigError` for a bad option or a missing file, `ModelRefused` for a model that would be served wrong.
    """
    folder = Path(path)
    name = str(read_settings(folder).get("model_type"))
    with quiet_transformers(), _refusals_named(name), load_progress() as progress:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        check_config(config)
        limit = position_limit(config, max_model_tokens)
        own = str(config.get_text_config().dtype or "float32").removeprefix("torch.")
        wire = _item_dtype("wire_dtype", wire_dtype or own)
        dtype = _item_dtype("dtype", own if dtype == "auto" else dtype)
        digest = _digest(folder, progress)
        progress.stage("placing the weights")
        model = _load_weights(folder, config, dtype, device)
        progress.stage("proving that it is served right")
        with unchanged_state(model):
            layers = prove_layers(model, limit)
            prove_packing(model, layers, getattr(torch, dtype), limit)
    positions = {"model_type": name, "rope": rope_settings(config.get_text_config(decoder=True))}
    return LoadedModel(model, layers, kv_spec([layer.kv for layer in layers], wire, digest, positions), limit, _eos_token_ids(model), dtype)


def _digest(folder: Path, progress: LoadProgress) -> bytes:
    """Reading the files once for their digest also brings them into memory, where placing them finds them."""
    files = weight_files(folder)
    progress.stage("reading the weights", sum(file.stat().st_size for file in files))
    return weights_digest(files, progress.advance)


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


def _load_weights(folder: Path, config: Any, dtype: str, device: torch.device) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=getattr(torch, dtype),
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
        auto = "auto, " if option == "dtype" else ""
        raise ConfigError(f"{option} must be one of {auto}{', '.join(ITEM_BYTES)}, got {name!r}")
    return name


def _eos_token_ids(model: Any) -> frozenset[int]:
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = getattr(model.config.get_text_config(decoder=True), "eos_token_id", None)
    return frozenset() if found is None else frozenset([found] if isinstance(found, int) else found)
