"""Who takes part in `benchmarks.engine_pace`: each answers one cell with tokens per second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
import transformers as hf

from shared.types import BlockId, TokenSpan
from workers.model_loader import quiet_transformers
from workers.step_plans import Piece, write_plan
from workers.torch_engine import TorchEngine

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, slots=True)
class Cell:
    """`decode`: tokens after the first, `batch` sequences of `context` prompt tokens. `prefill`: one prompt of `context` tokens."""

    kind: str
    batch: int
    context: int

    @property
    def name(self) -> str:
        return f"decode-{self.batch}" if self.kind == "decode" else f"prefill-{self.context}"

    def prompt(self, round_number: int = 0) -> list[int]:
        """Token ids, other ones in every round."""
        ids = torch.randint(1, 32000, (self.context,), generator=torch.Generator().manual_seed(round_number))
        return [int(token) for token in ids]


class Contestant(Protocol):
    name: str

    def run(self, cell: Cell) -> float:
        """Tokens per second."""
        ...

    def close(self) -> None: ...


class EngineContestant:
    """Our engine as a worker drives it: plans two deep, each decode taking its token from the step before."""

    name = "headstart"

    def __init__(self, folder: str, decoded: int, clock: str) -> None:
        self._engine = TorchEngine(folder, dtype="bfloat16", kv_bytes=1 << 29)
        self._decoded = decoded
        self._clock = CLOCKS[clock]
        self._filled: Cell | None = None
        self._steps: dict[str, list[tuple[float, float]]] = {}

    def run(self, cell: Cell) -> float:
        if cell.kind == "decode":
            self._fill(cell)
            return self._decode(cell)
        prompt = cell.prompt()
        began = self._clock()
        self._prefill(cell, prompt)
        return cell.context / (self._clock() - began)

    def _prefill(self, cell: Cell, prompt: list[int]) -> None:
        piece = Piece(prompt, 0, self._blocks(cell, 0), [len(prompt) - 1])
        self._engine.launch(write_plan(0, [piece], self._engine.block_tokens))
        self._engine.collect()

    def _fill(self, cell: Cell) -> None:
        """One prompt is computed, and its KV copied to the other sequences: the pace does not depend on the values."""
        if self._filled == cell:
            return
        self._prefill(cell, cell.prompt())
        payload = memoryview(bytearray(cell.context * self._engine.kv.bytes_per_token))
        self._engine.gather(tuple(self._blocks(cell, 0)), TokenSpan(0, cell.context), payload)
        for row in range(1, cell.batch):
            self._engine.scatter(tuple(self._blocks(cell, row)), TokenSpan(0, cell.context), payload)
        self._filled = cell

    def _decode(self, cell: Cell) -> float:
        """The first step feeds the engine a token that it need not wait for, every later one what the step before sampled."""
        self._launch_decode(cell, 0)
        began, wall, seconds = self._clock(), time.perf_counter(), 0.0
        for step in range(1, self._decoded):
            self._launch_decode(cell, step)
            seconds += self._engine.collect().seconds
        seconds += self._engine.collect().seconds
        taken, wall = self._clock() - began, time.perf_counter() - wall
        self._steps.setdefault(cell.name, []).append((wall / self._decoded, seconds / self._decoded))
        return cell.batch * self._decoded / taken

    def _launch_decode(self, cell: Cell, step: int) -> None:
        rows = range(cell.batch)
        inputs = [[row] if step else [] for row in rows]
        pieces = [Piece([1], cell.context + step, self._blocks(cell, row), [0], inputs=inputs[row]) for row in rows]
        self._engine.launch(write_plan(step, pieces, self._engine.block_tokens))

    def _blocks(self, cell: Cell, row: int) -> list[BlockId]:
        each = -(-(cell.context + self._decoded) // self._engine.block_tokens)
        return [BlockId(block) for block in range(row * each, (row + 1) * each)]

    def overhead(self) -> str:
        """Milliseconds on the wall per decode step that are not the model's own, by cell."""
        lines = ["engine overhead per decode step (step less the model's step, planned two deep):"]
        for name, steps in self._steps.items():
            whole, model = (1000 * median(column) for column in zip(*steps, strict=True))
            lines.append(f"  {name:11} {whole - model:6.3f} ms of {whole:7.2f} ms")
        return "\n".join(lines)

    def close(self) -> None:
        self._engine.close()


class Ticks(hf.StoppingCriteria):  # type: ignore[misc]
    """Never stops; notes when each token was there."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.at: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.at.append(self._clock())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class GenerateContestant:
    """`generate()` of transformers, greedy, SDPA, with its dynamic or its static cache; decodes go on from a cache that is there."""

    def __init__(self, folder: str, decoded: int, clock: str, cache: str) -> None:
        with quiet_transformers():
            self._model: Any = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.name = f"generate() {cache}"
        self._static = cache == "static"
        self._decoded = decoded
        self._clock = CLOCKS[clock]
        self._filled: tuple[Cell, hf.DynamicCache] | None = None

    def run(self, cell: Cell) -> float:
        if cell.kind == "decode":
            ids = torch.tensor([[*cell.prompt(), 1]] * cell.batch)
            at = self._generate(ids, 1 + self._decoded, past_key_values=self._cache(cell))
            return cell.batch * self._decoded / (at[-1] - at[0])
        ids = torch.tensor([cell.prompt()])
        began = self._clock()
        return cell.context / (self._generate(ids, 1, **({"cache_implementation": "static"} if self._static else {}))[0] - began)

    @torch.no_grad()
    def _cache(self, cell: Cell) -> hf.Cache:
        """The context's KV, computed once and copied to every sequence of the batch."""
        if self._filled is None or self._filled[0] != cell:
            computed = hf.DynamicCache(config=self._model.config)
            self._model(torch.tensor([cell.prompt()]), past_key_values=computed, logits_to_keep=1)
            self._filled = (cell, computed)
        room = cell.context + self._decoded + 2
        cache = hf.StaticCache(config=self._model.config, max_cache_len=room) if self._static else hf.DynamicCache()
        for index, layer in enumerate(self._filled[1].layers):
            cache.update(*(kv.repeat_interleave(cell.batch, 0) for kv in (layer.keys, layer.values)), index)
        return cache

    def _generate(self, ids: torch.Tensor, count: int, **more: object) -> list[float]:
        """When each token was there."""
        ticks = Ticks(self._clock)
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0, "stopping_criteria": [ticks]}
        self._model.generate(ids, attention_mask=torch.ones_like(ids), **options, **more)
        return ticks.at

    def close(self) -> None:
        del self._model


class VllmContestant:
    """vLLM on the CPU in its own environment, bound to as many cores as the others use; it answers cells line by line.

    Its prefix cache spares it the prompts of decodes, and prompts of prefills are never the same. Its processes spin for work
    while they have none, so they are stopped while others run.
    """

    name = "vLLM"

    def __init__(self, python: str, folder: str, decoded: int, threads: int) -> None:
        bound = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
        script = Path(__file__).with_name("vllm_peer.py")
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | bound
        self._process = subprocess.Popen(
            [python, str(script), folder, str(decoded)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self._rounds = 0
        self._answer()
        self._tell(signal.SIGSTOP)

    def run(self, cell: Cell) -> float:
        assert self._process.stdin is not None
        self._rounds += 1
        distinct = [cell.prompt(row if cell.kind == "decode" else self._rounds) for row in range(cell.batch)]
        self._tell(signal.SIGCONT)
        self._process.stdin.write(json.dumps({"kind": cell.kind, "prompts": distinct}) + "\n")
        self._process.stdin.flush()
        rate = self._answer()
        self._tell(signal.SIGSTOP)
        return rate

    def _answer(self) -> float:
        """What it says next: 0 once it is ready, then a cell's tokens per second."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("RATE "):
                return float(line.split()[1])
        raise RuntimeError(f"vLLM ended with {self._process.wait()}")

    def _tell(self, sign: signal.Signals) -> None:
        """All of its processes."""
        os.killpg(self._process.pid, sign)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._tell(signal.SIGCONT)
        self._process.stdin.close()
        self._process.wait(60)
