"""The cluster to simulate, from a TOML file: which model, which workers, how they are joined."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.simulation.serving.hardware import Gpu, Model, find_gpu, find_model
from scheduler.simulation.serving.roofline import Device
from shared.errors import ConfigError

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One kind of worker, `count` times."""

    name: str
    gpu: Gpu
    count: int = 1
    kv_tokens: int | None = None
    """KV memory in tokens; None: what the GPU has beside the weights."""
    max_sequences: int = 256
    slowdown: float = 1.0

    def device(self, model: Model) -> Device:
        return Device(self.gpu, model, self.slowdown)

    def blocks(self, model: Model) -> int:
        return (self.device(model).kv_tokens() if self.kv_tokens is None else self.kv_tokens) // BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    name: str
    model: Model
    workers: tuple[WorkerPlan, ...]
    link_bytes_per_s: float = 12.5e9
    """Between any two workers, one way: 100 Gb/s."""
    link_s: float = 0.001
    token_budget: int = 512
    message_s: float = 0.0005
    """From one process to another through the message server."""
    profile_noise: float = 0.03
    """Standard deviation of the samples from which profiles are fitted, as a share of their true value."""

    @property
    def usd_per_hour(self) -> float | None:
        """None if the price of any worker is not known."""
        prices = [worker.gpu.usd_per_hour for worker in self.workers for _ in range(worker.count)]
        return None if None in prices else sum(price for price in prices if price is not None)

    @property
    def longest_tokens(self) -> int:
        """Of the longest request that every worker could hold: all policies serve the same requests."""
        return min(self.model.max_tokens, min(kind.blocks(self.model) * BLOCK_TOKENS for kind in self.workers if kind.count))

    def __post_init__(self) -> None:
        if not any(worker.count for worker in self.workers):
            raise ConfigError(f"cluster {self.name}: it has no worker; add a [[worker]] table")
        for worker in self.workers:
            if worker.count and worker.blocks(self.model) < 2:
                raise ConfigError(f"cluster {self.name}: worker {worker.name}: {self.model.name} does not fit into a {worker.gpu.name}")


def read_cluster(path: Path) -> ClusterPlan:
    """Raises `ConfigError` that names the file, the key and the remedy."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--cluster {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--cluster {path}: not TOML: {error}") from error
    return _cluster(path, table)


def _cluster(path: Path, table: dict[str, Any]) -> ClusterPlan:
    where = f"--cluster {path}"
    workers = table.pop("worker", [])
    if not isinstance(workers, list) or not workers:
        raise ConfigError(f"{where}: needs at least one [[worker]] table with name and gpu")
    model = find_model(_taken(where, table, "model", str))
    plans = tuple(_worker(f"{where}: [[worker]] {at}", dict(worker)) for at, worker in enumerate(workers, 1))
    figures = {name: _number(where, table, name) for name in _FIGURES if name in table}
    name = str(table.pop("name", path.stem))
    _nothing_left(where, table)
    settings = {_FIGURES[key][0]: value * _FIGURES[key][1] for key, value in figures.items()}
    budget = int(settings.pop("token_budget", 512))
    return ClusterPlan(name, model, plans, token_budget=budget, **settings)


_FIGURES = {
    "link_gb_s": ("link_bytes_per_s", 1e9),
    "link_ms": ("link_s", 1e-3),
    "message_ms": ("message_s", 1e-3),
    "token_budget": ("token_budget", 1),
    "profile_noise": ("profile_noise", 1),
}
"""Keys of the file: the field, and the unit."""


def _worker(where: str, table: dict[str, Any]) -> WorkerPlan:
    gpu = find_gpu(_taken(where, table, "gpu", str))
    name = str(table.pop("name", gpu.name.lower()))
    counts = {key: int(_number(where, table, key)) for key in ("count", "kv_tokens", "max_sequences") if key in table}
    slowdown = _number(where, table, "slowdown") if "slowdown" in table else 1.0
    _nothing_left(where, table)
    return WorkerPlan(name, gpu, slowdown=slowdown, **counts)


def _taken(where: str, table: dict[str, Any], key: str, kind: type[str]) -> str:
    if not isinstance(table.get(key), kind):
        raise ConfigError(f"{where}: {key} must be given, as a text")
    return str(table.pop(key))


def _number(where: str, table: dict[str, Any], key: str) -> float:
    value = table.pop(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"{where}: {key} = {value!r} must be a number, at least 0")
    return float(value)


def _nothing_left(where: str, table: Mapping[str, Any]) -> None:
    if table:
        raise ConfigError(f"{where}: unknown key {next(iter(table))!r}")
