"""What a cached prefix is worth: TTFT of a second request whose first 4,096 tokens are those of the first, through the whole system.

    python -m benchmarks.prefix_cache [--prefix 4096] [--rounds 7] [--layers 4] [--hidden 384] [--threads 2]

A gateway, a scheduler and one worker with a random Llama, as `headstart up` launches them. In each round a new shared prompt is
sent twice with unlike ends by one tenant, then by another: the second is fast, the other tenant's is as slow as the first. In
turns with it the same prompts go to a second such system without the cache: the answers must be the same (float32, greedy).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx2
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.rows import Row, write_rows
from cli.system import System, SystemPlan, WorkerPlan
from workers.model_loader import quiet_transformers

TENANTS = ("tenant-a", "tenant-b")
VOCABULARY = 4000
END_TOKENS = 40
ANSWER_TOKENS = 8
ENOUGH = 5.0
"""A second request that is not so many times faster has missed the point."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer: when its first text came, what it was, and how much of the prompt was cached."""

    ttft_s: float
    text: str
    cached: int


@dataclass(frozen=True, slots=True)
class Round:
    first: Timed
    second: Timed
    other: Timed
    """Another tenant's, of the same prompt as `second`."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), options)
        with_cache, without = asyncio.run(measure(Path(folder), options))
    check(with_cache, without, options.prefix)
    write_rows("prefix_cache", rows(with_cache, without, options.prefix))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="TTFT with and without a cached prefix")
    for name, default in (("prefix", 4096), ("rounds", 7), ("layers", 4), ("hidden", 384), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def save_model(folder: Path, options: argparse.Namespace) -> None:
    """A random Llama whose greedy answers vary (see `initializer_range`), and a tokenizer whose every id is a word."""
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=max(1, options.hidden // 256),
        max_position_embeddings=options.prefix + 1024,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{at}": at for at in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))


async def measure(model: Path, options: argparse.Namespace) -> tuple[list[Round], list[Round]]:
    """All rounds with the cache and without it, in turns; the first, cold, is dropped."""
    with_cache, without = list[Round](), list[Round]()
    async with running(model, options, ()) as ours, running(model, options, ("--no-prefix-cache",)) as plain:
        for number in range(options.rounds + 1):
            with_cache.append(await one_round(ours, random.Random(number), options.prefix))
            without.append(await one_round(plain, random.Random(number), options.prefix))
    return with_cache[1:], without[1:]


@asynccontextmanager
async def running(model: Path, options: argparse.Namespace, worker_options: tuple[str, ...]) -> AsyncIterator[httpx2.AsyncClient]:
    worker = WorkerPlan("one", ("--threads", str(options.threads), "--kv-mib", "512", "--token-budget", "512", *worker_options))
    plan = SystemPlan(model=model, served_model_name="llama", workers=(worker,), api_keys=TENANTS, echo=False)
    async with System(plan) as system, httpx2.AsyncClient(base_url=system.urls[0], timeout=300.0) as client:
        yield client


async def one_round(client: httpx2.AsyncClient, rng: random.Random, prefix: int) -> Round:
    shared = [rng.randrange(1, VOCABULARY) for _ in range(prefix)]
    ends = [[rng.randrange(1, VOCABULARY) for _ in range(END_TOKENS)] for _ in range(2)]
    first = await ask(client, TENANTS[0], shared + ends[0])
    second = await ask(client, TENANTS[0], shared + ends[1])
    return Round(first, second, await ask(client, TENANTS[1], shared + ends[1]))


async def ask(client: httpx2.AsyncClient, tenant: str, prompt: list[int]) -> Timed:
    """A streamed completion: seconds from the request to its first text, and the story afterwards."""
    headers = {"authorization": f"Bearer {tenant}"}
    body = {"model": "llama", "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True}
    began, first, pieces, public_id = time.perf_counter(), 0.0, list[str](), ""
    async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            public_id, text = event["id"], "".join(choice["text"] for choice in event["choices"])
            first = first or (time.perf_counter() - began if text else 0.0)
            pieces.append(text)
    story = (await client.get(f"/v1/requests/{public_id}/explain", headers=headers)).raise_for_status().json()
    return Timed(first, "".join(pieces), story["tokens"]["cached"])


def check(with_cache: list[Round], without: list[Round], prefix: int) -> None:
    """Raises `SystemExit` if a token differs, a tenant was served another's blocks, or nothing was cached."""
    whole = prefix // 16 * 16
    for ours, plain in zip(with_cache, without, strict=True):
        texts = [[answer.text for answer in (each.first, each.second, each.other)] for each in (ours, plain)]
        _must(texts[0] == texts[1], f"answers differ with and without the cache: {texts}")
        _must(ours.second.cached == whole, f"{ours.second.cached} tokens of {whole} were cached")
        _must(ours.first.cached == ours.other.cached == 0, f"a tenant was served what another computed: {ours}")
        _must(not (plain.second.cached or plain.other.cached), f"something was cached without the cache: {plain}")


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(otherwise)


def rows(with_cache: list[Round], without: list[Round], prefix: int) -> list[Row]:
    """Medians over the rounds, in milliseconds."""

    def ms(values: list[float]) -> float:
        return 1000 * median(values)

    first, second = ms([each.first.ttft_s for each in with_cache]), ms([each.second.ttft_s for each in with_cache])
    other, plain = ms([each.other.ttft_s for each in with_cache]), ms([each.second.ttft_s for each in without])
    cold = ms([each.first.ttft_s for each in without])
    return [
        Row(f"TTFT, second of two with {prefix} tokens shared", "ms", second, first, "the first", ENOUGH, lower_is_better=True),
        Row(f"TTFT, second of two with {prefix} tokens shared", "ms", second, plain, "--no-prefix-cache", ENOUGH, lower_is_better=True),
        Row("TTFT, the same prompt of another tenant", "ms", other, first, "the first", None, lower_is_better=True),
        Row("TTFT, a prompt that nobody sent before", "ms", first, cold, "--no-prefix-cache", None, lower_is_better=True),
    ]


if __name__ == "__main__":
    main()
