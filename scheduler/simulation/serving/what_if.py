"""The same cluster, otherwise: other worker counts, another link, another token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler.simulation.serving.plan import ClusterPlan
from shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WhatIf:
    """None, or nothing: as the cluster's file says."""

    workers: Sequence[str] = ()
    """`NAME=COUNT`: so many of this kind of worker."""
    link_gb_s: float | None = None
    token_budget: int | None = None


def changed(plan: ClusterPlan, what_if: WhatIf) -> ClusterPlan:
    """Raises `ConfigError` that names the option for a kind of worker that is not there, or a cluster that nothing is left of."""
    for option in what_if.workers:
        plan = _with_count(plan, option)
    if what_if.link_gb_s is not None:
        plan = replace(plan, link_bytes_per_s=what_if.link_gb_s * 1e9)
    if what_if.token_budget is not None:
        plan = replace(plan, token_budget=what_if.token_budget)
    return plan


def _with_count(plan: ClusterPlan, option: str) -> ClusterPlan:
    name, _, count = option.partition("=")
    names = [worker.name for worker in plan.workers]
    if name not in names or not count.isdecimal():
        raise ConfigError(f"--workers {option}: must be NAME=COUNT, with a name among {', '.join(names)}")
    return replace(plan, workers=tuple(replace(worker, count=int(count)) if worker.name == name else worker for worker in plan.workers))
