"""What a simulated run comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.simulation.serving.records import Outcome

QUANTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Targets:
    """A request is good if it meets both; its inter-token latency is the mean of its own."""

    ttft_s: float = 2.0
    itl_s: float = 0.1
    itl_p99_s: float = 0.1
    """One limit for all policies on the time between tokens, at p99 over all tokens of a run."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one policy on one trace. Times are seconds, shares are of 1."""

    policy: str
    requests_per_s: float
    tokens_per_s: float
    """Generated."""
    goodput: float
    """Requests a second that met their targets."""
    ttft: tuple[float, ...]
    """p50, p90, p99."""
    itl: tuple[float, ...]
    utilisation: dict[str, float]
    """Share of the time in which each worker computed."""
    kv_use: dict[str, float]
    """Mean share of KV blocks in use."""
    head_start: float
    """Share of the prompt tokens that came from head starts."""
    gigabytes_moved: float
    preemptions: int
    usd_per_million: float | None
    """Dollars per million tokens, prompt and output; None: a price is not known."""
    placements: int
    keeps_itl: bool = True
    """Its inter-token p99 is within the limit that all policies share."""
    latency: tuple[float, ...] = ()
    """From arrival to last token: p50, p90, p99."""
    steady_per_s: float = 0.0
    """Requests a second over the middle half of the answers' ends: steady where far more requests were served than decode at once."""

    @property
    def met(self) -> float:
        """Share of the requests that met their targets."""
        return self.goodput / self.requests_per_s


def figures(policy: str, ran: Outcome, targets: Targets) -> Figures:
    records, end, workers = ran.requests, ran.end_s, ran.workers
    prompts = sum(record.arrival.prompt_tokens for record in records)
    generated = sum(record.tokens for record in records)
    good = sum(record.ttft_s <= targets.ttft_s and _mean(record.gaps) <= targets.itl_s for record in records)
    price = ran.plan.usd_per_hour
    itl = _quantiles([gap for record in records for gap in record.gaps])
    return Figures(
        policy=policy,
        requests_per_s=len(records) / end,
        tokens_per_s=generated / end,
        goodput=good / end,
        ttft=_quantiles([record.ttft_s for record in records]),
        itl=itl,
        utilisation={worker.name: worker.busy_s / end for worker in workers},
        kv_use={worker.name: worker.kv_used / end / worker.total_blocks for worker in workers},
        head_start=sum(record.cut for record in records) / prompts,
        gigabytes_moved=ran.bytes_moved / 1e9,
        preemptions=sum(worker.preemptions for worker in workers),
        usd_per_million=None if price is None else price / 3600 * end / (prompts + generated) * 1e6,
        placements=ran.placements,
        keeps_itl=itl[-1] <= targets.itl_p99_s,
        latency=_quantiles([ended - record.arrival.at_s for record in records if (ended := record.ended_at) is not None]),
        steady_per_s=steady_rate([ended for record in records if (ended := record.ended_at) is not None]),
    )


def steady_rate(ends: Sequence[float]) -> float:
    """Ends a second over the middle half of them. Where a trace was served twice in one go, that is one whole pass of it. 0: too few."""
    ordered, quarter = sorted(ends), len(ends) // 4
    if quarter < 1 or ordered[-quarter - 1] <= ordered[quarter - 1]:
        return 0.0
    return (len(ends) - 2 * quarter) / (ordered[-quarter - 1] - ordered[quarter - 1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(values, QUANTILES)) if values else (0.0,) * len(QUANTILES)


def table(rows: Sequence[Figures], bound: float) -> str:
    """Text for a terminal: one line for each policy; `!` behind an inter-token p99 beyond the limit."""
    head = (
        f"{'policy':<26} {'req/s':>7} {'of bound':>8} {'tok/s':>7} {'goodput':>7} {'TTFT p50':>8} {'p90':>7} {'p99':>7}"
        f" {'ITL p50':>8} {'p90':>6} {'p99':>6}  {'head start':>10} {'$/Mtok':>7}  busy"
    )
    return "\n".join([head, *(_line(row, bound) for row in rows)])


def _line(row: Figures, bound: float) -> str:
    price = "-" if row.usd_per_million is None else f"{row.usd_per_million:.3f}"
    ttft = f"{row.ttft[0]:8.2f} {row.ttft[1]:7.2f} {row.ttft[2]:7.2f}"
    itl = f"{row.itl[0] * 1e3:8.1f} {row.itl[1] * 1e3:6.1f} {row.itl[2] * 1e3:6.1f}{' ' if row.keeps_itl else '!'}"
    busy = " ".join(f"{name} {share:.0%}" for name, share in row.utilisation.items())
    return (
        f"{row.policy:<26} {row.requests_per_s:7.3f} {row.requests_per_s / bound:8.3f} {row.tokens_per_s:7.0f} {row.goodput:7.3f}"
        f" {ttft} {itl} {row.head_start:10.1%} {price:>7}  {busy}"
    )
