"""One cell: a policy, a round, a load; what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import psutil

from benchmarks.balance_load import Answer, Load
from benchmarks.balance_model import WORDS
from benchmarks.balance_system import Rig
from benchmarks.balance_trace import asks
from scheduler.simulation.serving.trace import Arrival
from tests.support.scrape import Scraped

CELL_S = 300.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cell:
    """Times are seconds of the wall clock, seen by the client."""

    policy: str
    round: int
    load: float
    """Share of the best data-parallel throughput; 0: all requests at once."""
    seconds: float
    """From the first request's due time to the last token."""
    requests_per_s: float
    tokens_per_s: float
    """Generated."""
    steady_per_s: float
    """Requests per second between the ends of the first and the last tenth: without filling and draining."""
    ttft_s: tuple[float, ...]
    gaps_s: tuple[float, ...]
    late_s: float
    """How late the load generator was, at worst."""
    cut_tokens: float
    """Mean over all requests."""
    cut_share: float
    """Of the prompts' tokens."""
    moved_mib: float
    head_starts: dict[str, int]
    """Given, taken, wasted."""
    step_ms: dict[str, float]
    """Mean step of each worker."""
    served: dict[str, int]
    """Answers that ended on each worker."""
    preemptions: int
    cpu_s: dict[str, float]
    throttled_s: dict[str, float]
    stolen: float = 0.0
    """Share of the processors' time that the machine's host gave to others."""

    def brief(self) -> dict[str, Any]:
        """For a file: quantiles for samples."""
        short = {key: value for key, value in asdict(self).items() if key not in ("ttft_s", "gaps_s")}
        return short | {"ttft_s": quantiles(self.ttft_s), "itl_s": quantiles(self.gaps_s)}

    def line(self) -> str:
        ttft, itl = quantiles(self.ttft_s), quantiles(self.gaps_s)
        load = f"{self.load:.0%}" if self.load else "all"
        cpu = " ".join(f"{name} {seconds / self.seconds:.0%}" for name, seconds in self.cpu_s.items())
        steps = " ".join(f"{name} {ms:.0f}" for name, ms in self.step_ms.items())
        served = "+".join(map(str, self.served.values()))
        starts = "/".join(map(str, self.head_starts.values()))
        rate = f"{self.requests_per_s:6.2f} req/s (steady {self.steady_per_s:6.2f}) {self.tokens_per_s:5.0f} tok/s"
        return (
            f"{self.round} {load:>4} {self.policy:26} {rate}"
            f"  TTFT {ttft[0]:6.2f} {ttft[1]:6.2f} s  ITL {itl[0] * 1e3:4.0f} {itl[1] * 1e3:5.0f} ms  cut {self.cut_share:4.0%}"
            f"  head starts {starts} {self.moved_mib:6.1f} MiB  served {served}  step ms {steps}  CPU {cpu}  stolen {self.stolen:.1%}"
        )


async def measure(rig: Rig, policy: str, arrivals: Sequence[Arrival], *, round_: int, load: float, seed: int) -> Cell:
    """A scheduler of its own, the whole load, and everybody idle again."""
    await rig.lead_by(policy)
    series, cpu, throttled, stolen = await rig.series(), rig.cpu_s(), rig.throttled_s(), Stolen()
    answers = await Load(rig.fabric, asks(arrivals, WORDS, f"cell-{seed}", seed)).run(CELL_S)
    taken = stolen.share()
    spent = {name: seconds - cpu[name] for name, seconds in rig.cpu_s().items()}
    stood = {name: seconds - throttled[name] for name, seconds in rig.throttled_s().items()}
    await rig.settled()
    grown = Growth(series, await rig.series(), tuple(rig.groups))
    return replace(_cell(policy, round_, load, answers, grown, spent, stood), stolen=taken)


class Stolen:
    """What a virtual machine's host has given to others since this was made; nothing where the system does not say."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def share(self) -> float:
        """Of all processors' time."""
        now = psutil.cpu_times()
        passed = sum(now) - sum(self._before)
        return (getattr(now, "steal", 0.0) - getattr(self._before, "steal", 0.0)) / max(passed, 1e-9)


@dataclass(frozen=True, slots=True)
class Growth:
    """What the processes' counters grew by."""

    before: dict[str, Scraped]
    after: dict[str, Scraped]
    workers: tuple[str, ...]

    def of(self, process: str, name: str, **labels: str) -> float:
        series = f"headstart:{name}"
        return self.after[process](series, **labels) - self.before[process](series, **labels)

    def all(self, name: str, **labels: str) -> float:
        return sum(self.of(worker, name, **labels) for worker in self.workers)


def _cell(
    policy: str, round_: int, load: float, answers: Sequence[Answer], grown: Growth, cpu: dict[str, float], throttled: dict[str, float]
) -> Cell:
    ends = sorted(one.arrivals[-1][0] for one in answers)
    began = min(one.due for one in answers)
    seconds, prompts = ends[-1] - began, sum(len(one.ask.prompt) for one in answers)
    cut = grown.of("scheduler", "cut_tokens_sum")
    return Cell(
        policy=policy,
        round=round_,
        load=load,
        seconds=seconds,
        requests_per_s=len(answers) / seconds,
        tokens_per_s=sum(one.tokens for one in answers) / seconds,
        steady_per_s=steady(ends),
        ttft_s=tuple(one.ttft_s for one in answers),
        gaps_s=tuple(gap for one in answers for gap in one.gaps_s),
        late_s=max(one.submitted - one.due for one in answers),
        cut_tokens=cut / len(answers),
        cut_share=cut / prompts,
        moved_mib=grown.all("kv_transfer_bytes_total", direction="in") / MIB,
        head_starts={what: round(grown.all(f"head_starts_{what}_total")) for what in ("given", "taken", "wasted")},
        step_ms={name: 1e3 * grown.of(name, "step_seconds_sum") / max(1.0, grown.of(name, "step_seconds_count")) for name in grown.workers},
        served={name: round(grown.of(name, "request_success_total")) for name in grown.workers},
        preemptions=round(grown.all("num_preemptions_total")),
        cpu_s=cpu,
        throttled_s=throttled,
    )


def steady(ends: Sequence[float]) -> float:
    """Requests per second between the ends of the first and the last tenth of `ends`, which are in order; of all, where they are few."""
    tenth = len(ends) // 10
    first, last = ends[tenth], ends[-1 - tenth]
    return (len(ends) - 2 * tenth - 1) / max(last - first, 1e-9)


def quantiles(samples: Sequence[float]) -> tuple[float, float]:
    """p50 and p99; nothing where there is nothing."""
    if not samples:
        return 0.0, 0.0
    p50, p99 = np.percentile(samples, (50, 99))
    return float(p50), float(p99)
