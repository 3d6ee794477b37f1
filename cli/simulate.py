"""`headstart simulate`: a cluster that need not exist, a trace, and what each policy makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from scheduler.settings import SchedulerSettings
from scheduler.simulation.serving.figures import Figures, Targets, figures, table
from scheduler.simulation.serving.fluid import Bound, fluid_bound
from scheduler.simulation.serving.page import Section, write_page
from scheduler.simulation.serving.plan import ClusterPlan, read_cluster
from scheduler.simulation.serving.policies import check_policy, simulate
from scheduler.simulation.serving.trace import Arrival, as_poisson, at_rate, read_trace
from scheduler.simulation.serving.what_if import WhatIf, changed
from scheduler.simulation.serving.world import Serving
from shared.errors import ConfigError

SCHEDULED = SchedulerSettings(max_waiting=1_000_000)
"""Nobody is refused: what a cluster cannot take waits."""


@dataclass(frozen=True, slots=True)
class SimulateSettings:
    cluster: Path
    trace: Path
    policies: tuple[str, ...]
    requests: int = 1000
    rate: float | None = None
    """Requests a second; None: the trace's own times; 0: all at once."""
    poisson: bool = False
    targets: Targets = field(default_factory=Targets)
    seed: int = 0
    what_if: WhatIf = field(default_factory=WhatIf)
    out: Path | None = None
    """Folder for `figures.json`, `figures.txt`, plots (PNG) and `index.html`."""


def run_simulate(settings: SimulateSettings) -> list[Figures]:
    """Prints the table and writes what was asked for. Raises `ConfigError` for what cannot be simulated."""
    plan = changed(read_cluster(settings.cluster), settings.what_if)
    arrivals = _arrivals(settings)
    for policy in settings.policies:
        check_policy(policy)
    bound = fluid_bound(plan, arrivals)
    rows = _simulate_all(settings, plan, arrivals)
    text = f"{_title(settings, plan, arrivals, bound)}\n{table(rows, bound.requests_per_s)}"
    print(text)
    if settings.out is not None:
        _write(settings.out, text, plan, bound, rows)
    return rows


def _arrivals(settings: SimulateSettings) -> Sequence[Arrival]:
    arrivals = read_trace(settings.trace, settings.requests)
    if settings.poisson:
        if not settings.rate:
            raise ConfigError("--poisson: needs --rate above 0, the mean of the process")
        return as_poisson(arrivals, settings.rate, settings.seed)
    return arrivals if settings.rate is None else at_rate(arrivals, settings.rate)


def _simulate_all(settings: SimulateSettings, plan: ClusterPlan, arrivals: Sequence[Arrival]) -> list[Figures]:
    rows: list[Figures] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("simulating", total=len(settings.policies))
        for policy in settings.policies:
            progress.update(task, description=policy)
            ran = simulate(policy, Serving(plan, arrivals, SCHEDULED, settings.seed))
            rows.append(figures(policy, ran, settings.targets))
            progress.advance(task)
    return rows


def _title(settings: SimulateSettings, plan: ClusterPlan, arrivals: Sequence[Arrival], bound: Bound) -> str:
    workers = " + ".join(f"{worker.count} x {worker.gpu.name}" for worker in plan.workers if worker.count)
    rate = "all at once" if settings.rate == 0 else f"{len(arrivals) / max(arrivals[-1].at_s, 1e-9):.2f} req/s"
    targets = (
        f"TTFT {settings.targets.ttft_s:g} s, ITL {settings.targets.itl_s * 1e3:g} ms, its p99 {settings.targets.itl_p99_s * 1e3:g} ms"
    )
    return (
        f"{plan.name}: {workers}, {plan.model.name}, token budget {plan.token_budget}; {len(arrivals)} requests, {rate}."
        f" Fluid bound {bound.requests_per_s:.3f} req/s. Targets: {targets}."
    )


def _write(out: Path, text: str, plan: ClusterPlan, bound: Bound, rows: Sequence[Figures]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    entries = {"cluster": plan.name, "bound": asdict(bound), "policies": [asdict(row) for row in rows]}
    (out / "figures.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    (out / "figures.txt").write_text(text + "\n", encoding="utf-8")
    write_page(out, [Section("", text, bound.requests_per_s, rows)])
