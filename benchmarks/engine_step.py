"""Prefill and decode tokens/s of the torch engine beside transformers' `generate()`, on one small random Llama.

    python -m benchmarks.engine_step [--layers 6] [--hidden 384] [--prompt 512] [--batch 8] [--rounds 5]

Both run in turns, so that a noisy machine slows both; the ratio is the median of the rounds' ratios. `--clock cpu` counts
the process's CPU seconds instead of the wall's: on a machine that others use, with one thread, that is the fairer clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers as hf

from shared.types import BlockId
from workers.model_loader import quiet_transformers
from workers.step_plans import Piece, write_plan
from workers.torch_engine import TorchEngine

DECODED = 24

clock = time.perf_counter
"""Seconds; `main` may choose another."""


def main() -> None:
    global clock
    options = _options()
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = _save_model(Path(folder), options)
        engine = TorchEngine(folder, dtype=options.dtype, kv_bytes=1 << 28)
        prompts = torch.randint(1, 8000, (options.batch, options.prompt))
        print(f"{engine!r}, {options.threads} threads, prompt {options.prompt}, batch {options.batch}")
        _compare("prefill", options, lambda: _engine_prefill(engine, prompts), lambda: _hf_prefill(model, prompts))
        _compare("decode", options, lambda: _engine_decode(engine, prompts), lambda: _hf_decode(model, prompts))
        engine.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Engine steps beside generate()")
    for name, default in (("layers", 6), ("hidden", 384), ("prompt", 512), ("batch", 8), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    return parser.parse_args()


def _save_model(folder: Path, options: argparse.Namespace) -> Any:
    """Saves a random Llama and returns it as plain transformers loads it."""
    config = hf.LlamaConfig(
        vocab_size=8000,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=max(1, options.hidden // 192),
        max_position_embeddings=4096,
    )
    with quiet_transformers():
        hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()


def _compare(what: str, options: argparse.Namespace, ours: Callable[[], float], theirs: Callable[[], float]) -> None:
    """Prints tokens/s of both: the first round, cold, is dropped."""
    pairs = [(ours(), theirs()) for _ in range(options.rounds + 1)][1:]
    ratio = median(a / b for a, b in pairs)
    print(
        f"{what:8} engine {median(a for a, _ in pairs):9.0f} tok/s   generate {median(b for _, b in pairs):9.0f} tok/s   ratio {ratio:.2f}"
    )


def _blocks(engine: TorchEngine, prompts: torch.Tensor, row: int) -> list[BlockId]:
    each = -(-(prompts.shape[1] + DECODED) // engine.block_tokens)
    return [BlockId(block) for block in range(row * each, (row + 1) * each)]


def _engine_prefill(engine: TorchEngine, prompts: torch.Tensor) -> float:
    """Tokens/s of prefilling the prompts one after the other, each in one chunk."""
    began = clock()
    for row, prompt in enumerate(prompts.tolist()):
        engine.launch(write_plan(0, [Piece(prompt, 0, _blocks(engine, prompts, row), [len(prompt) - 1])], engine.block_tokens))
        engine.collect()
    return prompts.numel() / (clock() - began)


def _engine_decode(engine: TorchEngine, prompts: torch.Tensor) -> float:
    """Tokens/s of decoding the batch after its prefill, each step one plan."""
    last, length = [1] * len(prompts), prompts.shape[1]
    began = clock()
    for step in range(DECODED - 1):
        pieces = [Piece([token], length + step, _blocks(engine, prompts, row), [0]) for row, token in enumerate(last)]
        engine.launch(write_plan(step, pieces, engine.block_tokens))
        last = list(engine.collect().token_ids)
    return len(prompts) * (DECODED - 1) / (clock() - began)


def _hf_prefill(model: Any, prompts: torch.Tensor) -> float:
    began = clock()
    for prompt in prompts:
        _generate(model, prompt[None], 1)
    return prompts.numel() / (clock() - began)


def _hf_decode(model: Any, prompts: torch.Tensor) -> float:
    """Tokens/s of the tokens after the first, from the difference of two runs: `generate()` does not say when the prefill ended."""
    began = clock()
    _generate(model, prompts, 1)
    prefilled = clock()
    _generate(model, prompts, DECODED)
    return len(prompts) * (DECODED - 1) / (clock() - prefilled - (prefilled - began))


def _generate(model: Any, prompts: torch.Tensor, count: int) -> None:
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )


if __name__ == "__main__":
    main()
