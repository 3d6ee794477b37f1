"""Three times what the pool can do: goodput beside capacity's, refusals, memory, and how long it takes to be itself again.

    python -m benchmarks.overload --seconds 60

One worker with the engine without a model, slowed down until it is the bottleneck and not this machine. Capacity: a few more
clients than the worker has places, each with its next request as soon as one ends. Overload: arrivals at `--times` that rate,
whatever comes back; nobody tries again. Goodput: answers a second that were whole within `--target-s` of being sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from cli.system import System, SystemPlan, WorkerPlan
from tests.support.waiting import eventually

WEIGHTS = Path(__file__).parents[1] / "examples" / "demo_model" / "weights"
BODY: dict[str, Any] = {"model": "demo", "prompt": "It is a truth universally acknowledged", "max_tokens": 16, "ignore_eos": True}
PLACES, WAITING, CLIENTS = 16, 16, 20


@dataclass
class Load:
    """What one stretch of time brought."""

    seconds: float
    target_s: float
    began: float = field(default_factory=time.monotonic)
    statuses: Counter[int] = field(default_factory=Counter)
    sent: int = 0
    good: int = 0
    retry_after_s: list[int] = field(default_factory=list)

    async def send(self, http: httpx2.AsyncClient) -> None:
        sent = time.monotonic()
        self.sent += 1
        # Each its own prompt: who sends the same body is taken for somebody who comes again.
        answer = await http.post("/v1/completions", json=BODY | {"prompt": f"{BODY['prompt']} {self.sent}"})
        self.statuses[answer.status_code] += 1
        now = time.monotonic()
        if answer.status_code == 200:
            in_time = now <= min(sent + self.target_s, self.began + self.seconds)
            self.good += in_time and answer.json()["usage"]["completion_tokens"] == BODY["max_tokens"]
        else:
            self.retry_after_s.append(int(answer.headers["retry-after"]))

    @property
    def goodput(self) -> float:
        """What ends after the stretch of time does not count."""
        return self.good / self.seconds


async def closed_loop(http: httpx2.AsyncClient, seconds: float, target_s: float) -> Load:
    """`CLIENTS` of them, each with one request at a time."""
    load = Load(seconds, target_s)

    async def client() -> None:
        while time.monotonic() < load.began + seconds:
            await load.send(http)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return load


async def open_loop(http: httpx2.AsyncClient, rate: float, seconds: float, target_s: float) -> Load:
    """Arrivals at a steady rate; returns when the last one has its answer."""
    load = Load(seconds, target_s)
    async with asyncio.TaskGroup() as sent:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, load.began + number / rate - time.monotonic()))
            sent.create_task(load.send(http))
    return load


async def until_empty(http: httpx2.AsyncClient) -> float:
    """Seconds until nothing lives in the pool."""
    began = time.monotonic()

    async def empty() -> bool:
        return not (await http.get("/load")).json()["models"]["demo"]["live"]

    await eventually(empty, 120.0)
    return time.monotonic() - began


def memory_mib(system: System) -> dict[str, float]:
    """Resident memory of gateway and scheduler."""
    pids = {child.args[0]: child.process.pid for child in system.children if child.process}
    return {name: round(psutil.Process(pids[name]).memory_info().rss / 2**20, 1) for name in ("gateway", "scheduler")}


async def measure(seconds: float, times: float, target_s: float) -> dict[str, Any]:
    options = ("--engine", "fake", "--slowdown", "20", "--max-sequences", str(PLACES), "--kv-mib", "8", "--staging-mib", "16")
    plan = SystemPlan(WEIGHTS, "demo", (WorkerPlan("worker", options),), scheduler_options=("--max-waiting", str(WAITING)))
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
    async with System(plan) as system, httpx2.AsyncClient(base_url=system.urls[0], timeout=300, limits=limits) as http:
        await closed_loop(http, 2.0, target_s)
        before = memory_mib(system)
        capacity = (await closed_loop(http, seconds, target_s)).goodput
        over = await open_loop(http, capacity * times, seconds, target_s)
        emptied_s = await until_empty(http)
        after = memory_mib(system)
        again = (await closed_loop(http, seconds / 2, target_s)).goodput
    return {
        "seconds": seconds,
        "capacity_per_s": round(capacity, 2),
        "offered_per_s": round(capacity * times, 2),
        "goodput_in_overload_per_s": round(over.goodput, 2),
        "goodput_ratio": round(over.goodput / capacity, 3),
        "statuses": dict(sorted(over.statuses.items())),
        "retry_after_s": [min(over.retry_after_s, default=0), max(over.retry_after_s, default=0)],
        "empty_after_s": round(emptied_s, 2),
        "goodput_afterwards_ratio": round(again / capacity, 3),
        "memory_mib_before": before,
        "memory_mib_after": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload, and of the measurement of capacity before it")
    parser.add_argument("--times", type=float, default=3.0, help="capacity is offered so many times")
    parser.add_argument("--target-s", type=float, default=8.0, help="an answer within it is good")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.seconds, options.times, options.target_s)), indent=2))


if __name__ == "__main__":
    main()
