"""What a measured profile is of: the device with all that bounds it, the model, and the code that computes."""

from __future__ import annotations

import os
from hashlib import blake2b
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from shared.profile_document import ProfileKey
from workers.device import usable_device
from workers.engine import Engine
from workers.native import SOURCE, kernels
from workers.processor import processor_name, processor_quota

if TYPE_CHECKING:
    from workers.process import WorkerProcessSettings


def profile_key(settings: WorkerProcessSettings, engine: Engine) -> ProfileKey:
    """Of this worker's engine, as it is set up now."""
    return ProfileKey(
        device=device_description(settings.device, settings.slowdown),
        model=settings.model.name,
        weights=engine.kv.fingerprint.hex(),
        dtype=settings.dtype,
        engine=engine_description(settings.device),
        token_budget=settings.token_budget,
        max_sequences=settings.max_sequences,
        block_tokens=settings.block_tokens,
    )


def device_description(device: str, slowdown: float = 1.0) -> str:
    """The GPU's name, or the processor's with its threads and bounds; two that are called alike are equally fast."""
    kind = usable_device(device)
    parts = [torch.cuda.get_device_name(kind)] if kind.type == "cuda" else _processor_parts()
    return ", ".join([*parts, *([f"{slowdown:g} times slower"] if slowdown > 1 else [])])


def _processor_parts() -> list[str]:
    quota = processor_quota()
    bounds = [f"{torch.get_num_threads()} threads on {len(os.sched_getaffinity(0))} processors"]
    return [processor_name(), *bounds, *([f"quota {quota:g}"] if quota is not None else [])]


def engine_description(device: str) -> str:
    """Versions of what a step is made of: a change of one of them is another speed."""
    native = "no native kernels"
    if device == "cpu" and kernels(torch.float32) is not None:
        native = f"kernels {blake2b(SOURCE.read_bytes(), digest_size=6).hexdigest()}"
    return f"headstart {version('headstart')}, torch {torch.__version__}, transformers {version('transformers')}, {native}"
