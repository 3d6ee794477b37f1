"""A whole system around an engine without a cost, and what its processes take of the machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.sse_client import Stream, open_stream
from benchmarks.stamped_worker import STAMPS_VARIABLE, TOKENS, Stamps, open_stamps
from cli.system import System, SystemPlan, WorkerPlan
from shared.redis_fabric import RedisFabric
from tests.support.waiting import eventually

WEIGHTS = Path(__file__).resolve().parents[1] / "examples" / "demo_model" / "weights"
MODEL = "bench"
PROMPT = list(range(400, 416))
LENGTH = TOKENS + len(PROMPT)


@dataclass(slots=True)
class Bench:
    """A running system, its pace, and its processes."""

    system: System
    stamps: Stamps
    processes: dict[str, psutil.Process]

    @property
    def url(self) -> str:
        return self.system.urls[0]

    def pace(self, step_s: float) -> None:
        """Seconds of every coming step."""
        self.stamps[0] = step_s

    def cpu(self) -> dict[str, float]:
        """CPU seconds of each process so far; `client` is this one."""
        return {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}

    def memory_mib(self, name: str) -> float:
        """Resident memory now."""
        return float(self.processes[name].memory_info().rss / 2**20)

    async def open(self, seed: int, tokens: int) -> Stream:
        """Stream `seed`, whose tokens the engine stamps."""
        body = {"model": MODEL, "prompt": PROMPT, "max_tokens": tokens, "seed": seed, "ignore_eos": True, "stream": True}
        return await open_stream(self.url, "/v1/completions", body)

    async def settled(self) -> None:
        """Returns when no request is open any more: those that were left are cancelled."""
        fabric = await RedisFabric.connect(self.system.redis_url)
        await eventually(lambda: _none_open(fabric), 60.0)
        await fabric.disconnect()


async def _none_open(fabric: RedisFabric) -> bool:
    return not await fabric.read_submissions("0-0", count=1)


@asynccontextmanager
async def running(streams: int, *, sequences: int, redis_url: str = "") -> AsyncIterator[Bench]:
    """Server, scheduler, one worker with `sequences` places, one gateway."""
    with tempfile.TemporaryDirectory(prefix="hs-bench-") as folder:
        stamps = open_stamps(Path(folder, "stamps"), streams)
        system = System(plan(_model(Path(folder, "model")), Path(folder, "stamps"), sequences, redis_url))
        async with system:
            yield Bench(system, stamps, _processes(system))


def plan(model: Path, stamps: Path, sequences: int, redis_url: str = "") -> SystemPlan:
    places = ("--max-sequences", str(sequences), "--token-budget", str(sequences * 4))
    options = ("--engine", "fake", *places, "--staging-mib", "16", "--block-tokens", "64")
    worker = WorkerPlan("worker", options, module="benchmarks.stamped_worker")
    # Whoever leaves a stream leaves its place at once: the next measurement needs it.
    grace = ("--grace-s", "0.1")
    env = {STAMPS_VARIABLE: str(stamps), "OMP_NUM_THREADS": "1"}
    return SystemPlan(model, MODEL, (worker,), redis_url, scheduler_options=grace, env=env)


def _model(folder: Path) -> Path:
    """The demo model's tokenizer, with room for long answers."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WEIGHTS / name, folder / name)
    config = json.loads((WEIGHTS / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": LENGTH}))
    return folder


def _processes(system: System) -> dict[str, psutil.Process]:
    named = {child.args[0]: psutil.Process(child.process.pid) for child in system.children if child.process}
    servers = [child for child in psutil.Process(os.getpid()).children() if "valkey" in child.name() or "redis" in child.name()]
    return {**named, **({"server": servers[0]} if servers else {}), "client": psutil.Process(os.getpid())}
