"""Simulated runs for benchmarks: one job at a time, kept in a file, so that a long comparison can be broken off and gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cli.simulate import SCHEDULED
from scheduler.simulation.serving.figures import Figures, Targets, figures
from scheduler.simulation.serving.plan import ClusterPlan, read_cluster
from scheduler.simulation.serving.policies import simulate
from scheduler.simulation.serving.trace import Arrival, as_poisson, at_rate, read_trace
from scheduler.simulation.serving.world import Serving

CLUSTERS = Path("examples/clusters")


@dataclass(frozen=True, slots=True)
class Job:
    cell: str
    """A file in `examples/clusters`, without its ending."""
    policy: str
    rate: float
    """Requests a second, as a Poisson process; 0: all at once."""
    trace: Path
    requests: int
    seed: int
    passes: int = 1
    """How often the trace is served in one go. An even number of times, all at once: `steady_per_s` is of whole passes."""
    alone: str = ""
    """A kind of worker, one of which serves alone; empty: the whole cluster."""

    @property
    def key(self) -> str:
        """What it is, wherever the trace lies."""
        usual = {"passes": 1, "alone": ""}
        said = {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}
        return json.dumps(said | {"trace": self.trace.name}, sort_keys=True)


class Runs:
    """Figures of jobs; those that `kept` has already are not run again."""

    def __init__(self, kept: Path | None, processes: int) -> None:
        self._kept, self._processes = kept, processes
        self._figures: dict[str, Figures] = {}
        if kept is not None and kept.exists():
            for line in kept.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._figures[entry["job"]] = restored(entry["figures"])

    def __getitem__(self, job: Job) -> Figures:
        return self._figures[job.key]

    def __contains__(self, job: object) -> bool:
        return isinstance(job, Job) and job.key in self._figures

    def run(self, what: str, jobs: Sequence[Job]) -> None:
        missing = [job for job in dict.fromkeys(jobs) if job not in self]
        console = Console(stderr=True)
        with ProcessPoolExecutor(self._processes) as pool, Progress(console=console, disable=not console.is_terminal) as progress:
            for job, found in zip(missing, progress.track(pool.map(run, missing), description=what, total=len(missing)), strict=True):
                self._keep(job, found)

    def _keep(self, job: Job, found: Figures) -> None:
        self._figures[job.key] = found
        if self._kept is not None:
            with self._kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"job": job.key, "figures": asdict(found)}) + "\n")


def restored(entry: dict[str, object]) -> Figures:
    """Figures as they were before they were written as JSON."""
    return Figures(**{name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()})  # type: ignore[arg-type]


def arrivals_of(job: Job) -> list[Arrival]:
    trace = read_trace(job.trace, job.requests) * job.passes
    return as_poisson(trace, job.rate, job.seed) if job.rate else at_rate(trace, 0)


def plan_of(job: Job) -> ClusterPlan:
    plan = read_cluster(CLUSTERS / f"{job.cell}.toml")
    if not job.alone:
        return plan
    return replace(plan, workers=tuple(replace(worker, count=1) for worker in plan.workers if worker.name == job.alone))


def run(job: Job) -> Figures:
    return figures(job.policy, simulate(job.policy, Serving(plan_of(job), arrivals_of(job), SCHEDULED, job.seed)), Targets())
