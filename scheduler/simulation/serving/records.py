"""What is noted of each request and each worker while a trace is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler.simulation.serving.plan import ClusterPlan
from scheduler.simulation.serving.trace import Arrival


@dataclass(slots=True)
class RequestRecord:
    """Times are seconds of the virtual clock, as the client would see them."""

    arrival: Arrival
    first_at: float | None = None
    last_at: float = 0.0
    tokens: int = 0
    gaps: list[float] = field(default_factory=list)
    """Between tokens: the inter-token latencies."""
    owner: str = ""
    cut: int = 0
    """Prompt tokens that came from a head start."""
    ended_at: float | None = None

    def token(self, now: float, count: int) -> None:
        if self.first_at is None:
            self.first_at = now
        elif count == 1:
            self.gaps.append(now - self.last_at)
        else:
            self.gaps += [(now - self.last_at) / count] * count
        self.last_at = now
        self.tokens += count

    @property
    def ttft_s(self) -> float:
        assert self.first_at is not None
        return self.first_at - self.arrival.at_s


@dataclass(slots=True)
class WorkerRecord:
    name: str
    total_blocks: int
    busy_s: float = 0.0
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    kv_used: float = 0.0
    """Block-seconds."""
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trace that was served."""

    plan: ClusterPlan
    requests: Sequence[RequestRecord]
    end_s: float
    workers: Sequence[WorkerRecord]
    bytes_moved: int
    """Between workers: KV, or activations."""
    placements: int
