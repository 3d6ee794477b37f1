"""Policies by name: one interface (`base.Policy`), so that baselines and new ideas run in the same core."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.policies.base import Policy
from scheduler.policies.cronus import Cronus
from scheduler.policies.data_parallel import LeastWork, RoundRobin, WeightedRoundRobin
from scheduler.policies.disaggregated import DisaggregatedHighLow, DisaggregatedLowHigh
from scheduler.policies.fixed_cut import FixedCut
from scheduler.policies.headstart import Headstart
from scheduler.policies.high_only import HighOnly
from scheduler.settings import SchedulerSettings
from shared.errors import ConfigError

POLICIES: dict[str, Callable[[SchedulerSettings], Policy]] = {
    policy.name: policy
    for policy in (
        Headstart,
        Cronus,
        DisaggregatedLowHigh,
        DisaggregatedHighLow,
        RoundRobin,
        WeightedRoundRobin,
        LeastWork,
        HighOnly,
        FixedCut,
    )
}


def make_policy(settings: SchedulerSettings) -> Policy:
    """Raises `ConfigError` if nobody goes by that name."""
    if settings.policy not in POLICIES:
        raise ConfigError(f"--policy {settings.policy}: no scheduler policy goes by that name; choose one of {', '.join(sorted(POLICIES))}")
    return POLICIES[settings.policy](settings)
