"""What the fabric itself costs, with an engine that costs nothing: `python -m benchmarks.fabric_cost`.

Every token passes worker, message server, gateway and a socket to a client, all on this machine, the client too. Three figures:

* requests per second, of one token each, in a closed loop;
* tokens per second, with steps that take no time;
* added latency per token at a given step time: from the engine's stamp to the client's read, p50 and p99. All streams step together,
  so the last of N tokens waits for N - 1 others: it is the cost of a burst.

CPU microseconds per token say what a process costs whatever else the machine does. Beside tokens per second stands the bare server on
the same machine: XADD and XREAD of the same entries through the same client library, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import uvloop
from tokenizers import Tokenizer

from benchmarks.fabric_bench import MODEL, PROMPT, WEIGHTS, Bench, running
from benchmarks.rows import Row, write_rows
from benchmarks.sse_client import Stream, open_stream
from benchmarks.stamped_worker import TOKENS, WORDS, word
from shared.codec import encode
from shared.connection import open_connection
from shared.fabric_settings import FabricSettings
from shared.messages import LogTokens
from tests.support.waiting import eventually

AIM_TOKENS_PER_S = 30_000.0
AIM_ADDED_MS = 1.0
RAMP_STEP_S = 0.05
INSTANT = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """What passed between two moments."""

    tokens: int
    seconds: float
    added_ms: tuple[float, float]
    """p50 and p99."""
    cpu_us: dict[str, float]
    """Of each process, per token."""
    events: int
    """A worker that writes more slowly than it computes puts several tokens into one."""

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def line(self, name: str) -> str:
        parts = " ".join(f"{process} {us:.1f}" for process, us in self.cpu_us.items())
        p50, p99 = self.added_ms
        rate = f"{self.rate:9.0f} tokens/s ({self.tokens / max(1, self.events):.2f} an event)"
        return f"{name:28} {rate}  added p50 {p50:7.2f} ms p99 {p99:7.2f} ms  CPU us/token: {parts}"


async def streamed(bench: Bench, streams: int, step_s: float, seconds: float, first_seed: int) -> Window:
    """All streams under way, then a window of `seconds` at the given pace."""
    bench.pace(RAMP_STEP_S)
    opened: list[Stream] = []
    for at in range(0, streams, 64):
        opened += await asyncio.gather(*(bench.open(first_seed + each, TOKENS) for each in range(at, min(at + 64, streams))))
        await asyncio.sleep(0.1)
    await eventually(lambda: _all_began(opened), 120.0)
    bench.pace(step_s)
    await asyncio.sleep(0.5)
    cpu, began = bench.cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    ended, spent = time.monotonic(), {name: total - cpu[name] for name, total in bench.cpu().items()}
    bench.pace(RAMP_STEP_S)
    for stream in opened:
        stream.close()
    await bench.settled()
    heard = [_heard(bench, stream, first_seed + at, began, ended) for at, stream in enumerate(opened)]
    tokens, added = sum(count for count, _ in heard), np.concatenate([late for _, late in heard])
    p50, p99 = np.percentile(added, [50, 99]) * 1000
    per_token = {name: total / max(1, tokens) * 1e6 for name, total in spent.items()}
    return Window(tokens, ended - began, (float(p50), float(p99)), per_token, len(added))


def _heard(bench: Bench, stream: Stream, seed: int, began: float, ended: float) -> tuple[int, np.typing.NDArray[np.float64]]:
    """Tokens that came within the window, and of each of their events the seconds from its last token's emission to its receipt."""
    last = _last_tokens([event["choices"][0]["text"] for event in stream.events()], seed)
    arrivals = np.array(stream.arrivals())[: len(last)]
    emitted = bench.stamps[1 + seed * TOKENS + last[: len(arrivals)]]
    inside = (arrivals >= began) & (arrivals < ended)
    tokens = np.diff(last[: len(arrivals)], prepend=-1)[inside]
    return int(tokens.sum()), np.asarray(arrivals - emitted)[inside]


def _last_tokens(texts: Sequence[str], seed: int) -> np.typing.NDArray[np.int64]:
    """The index of the last token in each event, from the lengths of what was said."""
    said = np.cumsum([len(text) for text in texts])
    spoken = np.cumsum([_length(word(seed, index)) for index in range(min(TOKENS, int(said[-1]) + 1) if len(said) else 0)])
    return np.searchsorted(spoken, said, side="right") - 1


@cache
def _length(token: int) -> int:
    """Characters that a token adds to a text."""
    words = _tokenizer()
    return len(words.decode([WORDS[0], token])) - len(words.decode([WORDS[0]]))


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))


async def answered(bench: Bench, clients: int, seconds: float) -> tuple[float, dict[str, float]]:
    """Requests per second of a closed loop, each of one token, and CPU microseconds of each process per request."""
    bench.pace(INSTANT)
    count, stop = 0, time.monotonic() + seconds

    async def client() -> None:
        nonlocal count
        while time.monotonic() < stop:
            body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1, "seed": 0, "ignore_eos": True, "stream": True}
            stream = await open_stream(bench.url, "/v1/completions", body)
            await stream.done
            stream.close()
            count += 1

    cpu, began = bench.cpu(), time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    passed = time.monotonic() - began
    return count / passed, {name: (total - cpu[name]) / count * 1e6 for name, total in bench.cpu().items()}


async def bare_server(url: str, logs: int, seconds: float) -> float:
    """Entries per second: one pipeline of XADDs and one XREAD of what they added, again and again, through this project's connection."""
    connection = await open_connection(url, FabricSettings())
    names = [f"hs:{{bench}}:log:{at}" for at in range(logs)]
    entry = encode(LogTokens(0, 100, (300,), " word", (-1.0,), None, 1_700_000_000_000))
    adds = [("XADD", name, "*", "m", entry) for name in names]
    count, before, began = 0, [b"0-0"] * logs, time.monotonic()
    while time.monotonic() - began < seconds:
        added = await connection.pipeline(adds)
        await connection.command("XREAD", "STREAMS", *names, *before)
        count, before = count + logs, added
    rate = count / (time.monotonic() - began)
    await connection.pipeline([("DEL", name) for name in names])
    await connection.close()
    return rate


async def _all_began(streams: list[Stream]) -> bool:
    return all(stream.frames > 2 for stream in streams)


async def bench(options: argparse.Namespace) -> list[Row]:
    most = max(options.streams)
    async with running(most * (len(options.streams) + options.rounds) + 1, sequences=most) as system:
        seed, rows = 1, list[Row]()
        requests, cpu = await answered(system, options.clients, options.seconds)
        print(f"{requests:.0f} requests/s; CPU us/request: " + " ".join(f"{name} {us:.0f}" for name, us in cpu.items()), flush=True)
        rates = []
        for _ in range(options.rounds):
            window = await streamed(system, most, INSTANT, options.seconds, seed)
            seed += most
            rates.append(window.rate)
            print(window.line(f"{most} streams, no step time"), flush=True)
        bare = await bare_server(system.system.redis_url, most, 2.0)
        rate = statistics.median(rates)
        rows.append(Row("tokens streamed", "1/s", rate, AIM_TOKENS_PER_S, "the aim", 1.0))
        rows.append(Row("tokens streamed", "1/s", rate, bare, "bare XADD and XREAD", None))
        for streams in options.streams:
            window = await streamed(system, streams, options.step_ms / 1000, options.seconds, seed)
            seed += streams
            print(window.line(f"{streams} streams, {options.step_ms:g} ms steps"), flush=True)
            rows.append(Row(f"added p50, {streams} streams", "ms", window.added_ms[0], AIM_ADDED_MS, "the aim", 1.0, True))
            rows.append(Row(f"added p99, {streams} streams", "ms", window.added_ms[1], AIM_ADDED_MS, "the aim at p50", None, True))
    return rows


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fabric_cost")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--step-ms", type=float, default=40.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    write_rows("fabric_cost", uvloop.run(bench(parsed())))
