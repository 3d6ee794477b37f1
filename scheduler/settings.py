"""What an operator can turn in the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, fields

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """All periods are seconds of the leader's monotonic clock."""

    policy: str = "headstart"
    """A name in `scheduler.policies.POLICIES`."""
    liveness_s: float = 3.0
    """Silence after which an incarnation is dead."""
    grace_s: float = 10.0
    """How long a request that is not in the background lives without a listener."""
    cancel_grace_s: float = 5.0
    """How long an owner may take to end a request that it was told to end."""
    retry_s: float = 1.0
    """A write without an answer, or a message that had no effect, is sent again after this."""
    audit_s: float = 1.0
    """How long an owner's reports must omit a request before it counts as lost."""
    max_crashes: int = 3
    """Attempts that ended in a crash before the request fails."""
    max_assists: int = 2
    """Head starts that one low-end computes at once; finished ones wait as long as there is memory."""
    low_end_ratio: float = 0.7
    """Workers at or above this share of the fastest prefill of their fingerprint own requests; the others assist."""
    max_waiting: int = 10_000
    """Published with the load: submissions beyond it are refused by the gateways' submit script."""
    output_quantile: float = 0.8
    """Quantile of earlier output lengths that is reserved beside the prompt."""
    default_output_tokens: int = 128
    """Reserved while too few outputs of that prompt length are known."""
    look_ahead: int = 64
    """Waiting requests a policy looks at in one decision, at most."""
    leave_growing: int = 8
    """Places in the line that an owner looks beyond a prompt whose head start is growing."""
    ttft_target_s: float = 0.0
    """What the first token of a request without a target of its own should not take longer than; 0: no target.

    Where prices are known, low-ends that meet the targets serve whole requests."""
    itl_target_s: float = 0.0
    """The same for the time between two of its tokens. A worker whose decodes alone take as long is full."""
    load_interval_s: float = 0.25
    """The load is published at most this often."""
    load_repeat_s: float = 1.0
    """An unchanged load is published again after this, so that its key may expire."""
    wait_without_owners_s: float = 30.0
    """The wait that is predicted while requests wait and nobody can own them."""
    cut_tokens: int = 0
    """Policy `fixed-cut` alone: where every request is cut, in tokens."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and value < 0:
                raise ConfigError(f"scheduler setting {field.name} = {value} must not be negative")
        for name in ("low_end_ratio", "output_quantile"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"scheduler setting {name} = {getattr(self, name)} must be in (0, 1]")
        for name in ("max_crashes", "look_ahead"):
            if getattr(self, name) < 1:
                raise ConfigError(f"scheduler setting {name} must be at least 1")
