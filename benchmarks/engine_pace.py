"""The torch engine's pace beside transformers' `generate()`, and vLLM where it is given, on a 125M random-weight Llama.

    python -m benchmarks.engine_pace [--rounds 7] [--cells decode-8 prefill-512 ...] [--decoded 24] [--threads 2] [--no-generate]

Tokens/s of decode at batch 1, 8, 32 over a context of 512 tokens, and of prefill at 512 and 2048, in bfloat16. `generate()`
runs with SDPA, with its dynamic and with its static cache: the target holds only where it holds against both. The
contestants take turns in every round, so that a noisy machine slows all; the ratio is the median of the rounds' ratios,
with a bootstrap confidence interval. An interval that contains 1.0 is a tie. `HEADSTART_BENCH_VLLM=/path/to/python` adds
vLLM, in a process of its own; `--no-generate` leaves it alone with us (`generate()` takes minutes for 32 prompts). `--clock cpu`
counts the process's CPU seconds, the fairer clock on a machine that others use.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# OpenMP reads it when torch is imported; `make` exports 1, for tests.
os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)

import torch
import transformers as hf

from benchmarks.intervals import Interval, ratio_interval
from benchmarks.pace_contestants import Cell, Contestant, EngineContestant, GenerateContestant, VllmContestant
from benchmarks.rows import Row, write_rows
from workers.model_loader import quiet_transformers

CELLS = (Cell("decode", 1, 512), Cell("decode", 8, 512), Cell("decode", 32, 512), Cell("prefill", 1, 512), Cell("prefill", 1, 2048))
TARGETS = {"decode-1": 1.0, "decode-8": 1.5, "decode-32": 1.5, "prefill-512": 1.0, "prefill-2048": 1.0}


@dataclass(frozen=True, slots=True)
class Result:
    """One cell: our tokens/s and another's in each round."""

    cell: Cell
    other: str
    ours: list[float]
    theirs: list[float]

    @property
    def interval(self) -> Interval:
        return ratio_interval(self.ours, self.theirs)

    def row(self) -> Row:
        target = TARGETS[self.cell.name] if self.other.startswith("generate") else None
        return Row(f"{self.cell.name} bfloat16", "tok/s", median(self.ours), median(self.theirs), self.other, target)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    cells = [cell for cell in CELLS if not options.cells or cell.name in options.cells]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        save_model(Path(folder))
        engine = EngineContestant(folder, options.decoded, options.clock)
        caches = () if options.no_generate else ("dynamic", "static")
        stock = [GenerateContestant(folder, options.decoded, options.clock, cache) for cache in caches]
        contestants: list[Contestant] = [engine, *stock]
        if python := os.environ.get("HEADSTART_BENCH_VLLM"):
            contestants.append(VllmContestant(python, folder, options.decoded, options.threads))
        for contestant in contestants:
            stack.callback(contestant.close)
        results: list[Result] = []
        for cell in cells:
            results += measure(cell, contestants, options.rounds)
            for result in [one for one in results if one.cell is cell]:
                print(f"{result.cell.name:13} {result.interval} of {result.other}", flush=True)
        write_rows("engine_pace_vllm" if options.no_generate else "engine_pace", [result.row() for result in results])
        print(engine.overhead())


def measure(cell: Cell, contestants: list[Contestant], rounds: int) -> list[Result]:
    """Every contestant once per round, in turns; a first round, cold, is dropped."""
    taken = [[contestant.run(cell) for contestant in contestants] for _ in range(rounds + 1)][1:]
    ours, *others = (list(rates) for rates in zip(*taken, strict=True))
    return [Result(cell, other.name, ours, rates) for other, rates in zip(contestants[1:], others, strict=True)]


def save_model(folder: Path) -> None:
    """Llama, 125M parameters: 12 layers, hidden 768, 12 query and 4 KV heads, vocabulary 32000."""
    config = hf.LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        eos_token_id=None,
        bos_token_id=None,
    )
    with quiet_transformers():
        hf.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The engine's pace beside others'")
    for name, default in (("rounds", 7), ("decoded", 24), ("threads", os.cpu_count() or 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cells", nargs="*", choices=[cell.name for cell in CELLS])
    parser.add_argument("--no-generate", action="store_true", help="vLLM alone beside us")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    return parser.parse_args()


if __name__ == "__main__":
    main()
