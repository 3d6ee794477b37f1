"""Run by vLLM's own interpreter: reads cells as JSON lines, answers `RATE tokens_per_second`, and `RATE 0` when it is ready.

Imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

vllm: Any = import_module("vllm")
"""Not installed beside this project: the environment that `HEADSTART_BENCH_VLLM` names has it."""


def main() -> None:
    folder, decoded = sys.argv[1], int(sys.argv[2])
    engine = vllm.LLM(
        folder, dtype="bfloat16", max_model_len=4096, skip_tokenizer_init=True, enable_prefix_caching=True, disable_log_stats=True
    )
    print("RATE 0", flush=True)
    for line in sys.stdin:
        cell = json.loads(line)
        first = generate(engine, cell["prompts"], 1)
        if cell["kind"] == "prefill":
            rate = sum(map(len, cell["prompts"])) / first
        else:
            rate = len(cell["prompts"]) * decoded / (generate(engine, cell["prompts"], 1 + decoded) - first)
        print(f"RATE {rate}", flush=True)


def generate(engine: Any, prompts: list[list[int]], count: int) -> float:
    params = vllm.SamplingParams(temperature=0.0, max_tokens=count, min_tokens=count, ignore_eos=True, detokenize=False)
    began = time.perf_counter()
    engine.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
