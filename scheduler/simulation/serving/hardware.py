"""GPUs and models as figures: what a roofline needs to know of them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared.errors import ConfigError

TABLE = Path(__file__).with_name("gpus.csv")
"""Dense 16-bit TFLOPS, memory bandwidth, memory, link, on-demand dollars an hour: vendors' data sheets and public price lists."""
WEIGHT_BYTES = 2
"""Of one parameter, and of one number of KV: 16 bits."""


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float
    usd_per_hour: float | None
    """None: no public on-demand price was found."""


@dataclass(frozen=True, slots=True)
class Model:
    """A dense decoder with grouped heads and a gated MLP."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    max_tokens: int = 8192

    @property
    def layer_parameters(self) -> int:
        """Of all layers: what each token is multiplied with."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def weight_bytes(self) -> int:
        return WEIGHT_BYTES * (self.layer_parameters + 2 * self.head_parameters)

    @property
    def kv_bytes_per_token(self) -> int:
        return self.layers * 2 * self.kv_heads * self.head_dim * WEIGHT_BYTES

    @property
    def flops_per_pair(self) -> int:
        """Of one query token with one key token: score and weighted sum."""
        return 4 * self.layers * self.heads * self.head_dim


MODELS = {
    model.name: model
    for model in (
        Model("llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128256),
        Model("qwen2-7b", 28, 3584, 28, 4, 128, 18944, 152064),
        Model("llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096),
    )
}


@cache
def gpus() -> dict[str, Gpu]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["gpu"]: _gpu(row) for row in csv.DictReader(file)}


def find_gpu(name: str) -> Gpu:
    """Raises `ConfigError` for a name that is not in the table."""
    if name not in gpus():
        raise ConfigError(f"gpu {name!r} is unknown: choose one of {', '.join(gpus())}")
    return gpus()[name]


def find_model(name: str) -> Model:
    """Raises `ConfigError` for a name that is not known."""
    if name not in MODELS:
        raise ConfigError(f"model {name!r} is unknown: choose one of {', '.join(MODELS)}")
    return MODELS[name]


def _gpu(row: dict[str, str]) -> Gpu:
    giga = 1e9
    return Gpu(
        row["gpu"],
        float(row["tflops_16bit_dense"]) * 1e12,
        float(row["memory_gb_s"]) * giga,
        float(row["memory_gb"]) * giga,
        float(row["link_gb_s_one_way"]) * giga,
        float(row["usd_per_hour"]) if row["usd_per_hour"] else None,
    )
