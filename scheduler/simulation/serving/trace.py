"""What arrives when: lengths and times of requests, from a file or drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from random import Random

from shared.errors import ConfigError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""Of the Azure LLM inference traces."""


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    prompt_tokens: int
    output_tokens: int


def read_trace(path: Path, limit: int | None = None) -> list[Arrival]:
    """An Azure trace (`.csv`) or a Mooncake trace (`.jsonl`), times from its first request on. Raises `ConfigError` for anything else."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            arrivals = list(islice(_rows(path, file), limit))
    except OSError as error:
        raise ConfigError(f"--trace {path}: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise ConfigError(f"--trace {path}: not a trace: {error}") from error
    if not arrivals:
        raise ConfigError(f"--trace {path}: holds no request")
    return sorted((replace(one, at_s=one.at_s - arrivals[0].at_s) for one in arrivals), key=lambda one: one.at_s)


def _rows(path: Path, file: Iterator[str]) -> Iterator[Arrival]:
    if path.suffix == ".jsonl":
        for line in file:
            entry = json.loads(line)
            yield Arrival(entry["timestamp"] / 1000, int(entry["input_length"]), int(entry["output_length"]))
        return
    for row in csv.DictReader(file):
        at, prompt, output = (row[name] for name in COLUMNS)
        yield Arrival(datetime.fromisoformat(at[:26]).timestamp(), int(prompt), int(output))


def at_rate(arrivals: Sequence[Arrival], per_s: float) -> list[Arrival]:
    """The same requests in the same order and rhythm, at another mean rate. 0: all at once."""
    if per_s <= 0:
        return [replace(one, at_s=0.0) for one in arrivals]
    span = arrivals[-1].at_s
    stretch = (len(arrivals) / per_s) / span if span > 0 else 0.0
    return [replace(one, at_s=one.at_s * stretch) for one in arrivals]


def as_poisson(arrivals: Sequence[Arrival], per_s: float, seed: int) -> list[Arrival]:
    """The same requests in the same order, with the gaps of a Poisson process."""
    rng, now, out = Random(seed), 0.0, []
    for one in arrivals:
        out.append(replace(one, at_s=now))
        now += rng.expovariate(per_s)
    return out


def clipped(arrivals: Sequence[Arrival], most_tokens: int) -> list[Arrival]:
    """Prompts shortened so that prompt and output fit into a model of so many tokens."""
    return [replace(one, prompt_tokens=max(1, min(one.prompt_tokens, most_tokens - one.output_tokens - 1))) for one in arrivals]
