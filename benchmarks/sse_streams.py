"""Many concurrent SSE streams on one gateway: `python -m benchmarks.sse_streams`.

All streams are open at once; each gets every token once and in order (checked afterwards, event by event). Beside it: how many
connections the message server has, and the gateway's resident memory before, and with all streams open.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

import uvloop
from redis import Redis
from tokenizers import Tokenizer

from benchmarks.fabric_bench import WEIGHTS, Bench, running
from benchmarks.rows import Row, write_rows
from benchmarks.sse_client import Stream
from benchmarks.stamped_worker import WORDS, word

RAMP_STEP_S = 0.1
HANDFUL = 16.0


def check(streams: Sequence[Stream], tokens: int) -> None:
    """Raises `AssertionError` for a token that is missing, doubled or out of order."""
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    text = {token: tokenizer.decode([token]) for token in WORDS}
    for seed, stream in enumerate(streams):
        events = stream.events()
        told = "".join(event["choices"][0]["text"] for event in events)
        right = "".join(text[word(seed, index)] for index in range(tokens))
        if [event["sequence_number"] for event in events] != list(range(len(events))) or told.strip() != right.strip():
            raise AssertionError(f"stream {seed} was told {told!r}, not {right!r}")


async def all_streams(bench: Bench, streams: int, tokens: int) -> tuple[list[Stream], int, float]:
    """The streams, ended; connections of the server and MiB of the gateway while all were open."""
    bench.pace(RAMP_STEP_S)
    opened: list[Stream] = []
    for at in range(0, streams, 100):
        opened += await asyncio.gather(*(bench.open(seed, tokens) for seed in range(at, min(at + 100, streams))))
    with Redis.from_url(bench.system.redis_url) as server:
        connections = len(server.client_list()) - 1
    memory = bench.memory_mib("gateway")
    bench.pace(0.0)
    await asyncio.gather(*(stream.done for stream in opened))
    return opened, connections, memory


async def bench(options: argparse.Namespace) -> list[Row]:
    async with running(options.streams, sequences=options.streams) as system:
        before, began = system.memory_mib("gateway"), time.monotonic()
        streams, connections, memory = await all_streams(system, options.streams, options.tokens)
        seconds = time.monotonic() - began
        for stream in streams:
            stream.close()
    check(streams, options.tokens)
    name = f"{options.streams} streams of {options.tokens} tokens"
    print(f"{name}: all complete, every token once and in order, {seconds:.1f} s; gateway {before:.0f} MiB idle, {memory:.0f} MiB with all")
    each_kib = (memory - before) * 1024 / options.streams
    return [
        Row(f"{name}: connections of the server", "", connections, HANDFUL, "a handful", 1.0, True),
        Row(f"{name}: gateway memory each", "KiB", max(each_kib, 0.1), memory * 1024, "the whole process", None, True),
    ]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sse_streams")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=50)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    write_rows("sse_streams", uvloop.run(bench(parsed())))
