"""The files of a checkpoint folder: found, whole, and of a kind that can be read without running anything in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shared.errors import ConfigError, ModelRefused

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-*.bin", "*.pth", "*.pt", "*.ckpt")
"""Names under which weights are saved as Python pickles: reading one can run any code, so none is ever read."""
REMEDY = "fetch the folder again, or write it anew with save_pretrained"


def read_settings(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model type that transformers has code for. Raises `ConfigError`, `ModelRefused`."""
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"no model at {folder}: config.json is missing; give a folder as save_pretrained writes it")
    settings = _read_object(file)
    name = settings.get("model_type")
    if name not in CONFIG_MAPPING:
        raise ModelRefused(f"model type {name!r} is refused: transformers does not know it, and remote code is never run")
    return settings


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, by name: one, or the shards of its index. Each is there and whole.

    Raises `ConfigError` that names the file and the remedy.
    """
    index = folder / INDEX
    names = _shards(index) if index.is_file() else [SINGLE]
    for name in names:
        if not (folder / name).is_file():
            raise _missing(folder, name)
        _check_header(folder / name)
    return [folder / name for name in names]


def weights_digest(files: Sequence[Path], read: Callable[[int], None] = lambda count: None) -> bytes:
    """Digest of the weight files' contents in order of name: an identity, not a signature (xxh3, some 10 GB/s).

    `read` is told how many bytes were read each time.
    """
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while piece := stream.read(1 << 24):
                digest.update(piece)
                read(len(piece))
    return digest.digest()


def _shards(index: Path) -> list[str]:
    shards = _read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise ConfigError(f"{index} has no weight_map of names to files: {REMEDY}")
    names = sorted(set(shards.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise ConfigError(f"{index} names the file {outside[0]!r}, which is not in its own folder: {REMEDY}")
    return names


def _missing(folder: Path, name: str) -> ConfigError:
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        return ConfigError(
            f"{folder / name} is missing, and {pickled[0]} is a pickle, which is never read because it can run code: "
            "convert it with save_pretrained (safetensors)"
        )
    return ConfigError(f"{folder / name} is missing; fetch it, or convert other formats with save_pretrained (safetensors only)")


def _check_header(file: Path) -> None:
    """The header says how long the file must be: a download that was cut off shows here."""
    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file} is damaged or cut off ({error}): {REMEDY}") from error


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file} ({error}): {REMEDY}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds no JSON object: {REMEDY}")
    return found
