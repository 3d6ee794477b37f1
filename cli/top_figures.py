"""What `headstart top` shows, from members, reports and leases: pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from scheduler.settings import SchedulerSettings
from shared.messages import AgentInfo, Report, WorkerInfo
from shared.types import RequestId, WorkerRef

WINDOW_MS = 10_000
"""Rates are means over so long, at most."""
HIGH_RATIO = SchedulerSettings().low_end_ratio


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker of the pool."""

    name: str
    host: str
    device: str
    role: str
    """`high` or `low`, as the measured prefill throughput says."""
    state: str
    running: int
    """Owned requests that have begun to be computed."""
    waiting: int
    """Owned requests that have not."""
    head_starts: int
    offered_tokens: int
    tokens_per_s: float
    kv_use: float
    """Share of the blocks that is held or promised, 0 to 1."""
    prefill_tokens_per_s: float


@dataclass(slots=True)
class _Track:
    """The reports of one worker within the window."""

    last: Report
    first_ms: int
    last_ms: int
    gained: deque[tuple[int, int]] = field(default_factory=deque)
    """`(at_ms, tokens generated since the report before)`."""


class ReportBook:
    """Fed with the pool's reports as the stream's entry ids date them; knows the latest of each worker, and its rate."""

    def __init__(self) -> None:
        self._tracks: dict[WorkerRef, _Track] = {}

    def add(self, entry_id: str, report: Report) -> None:
        at_ms = int(entry_id.partition("-")[0])
        track = self._tracks.get(report.ref)
        if track is None:
            self._tracks[report.ref] = _Track(report, at_ms, at_ms)
            return
        track.gained.append((at_ms, _generated(track.last, report)))
        track.last, track.last_ms = report, at_ms
        while track.gained and track.gained[0][0] <= at_ms - WINDOW_MS:
            track.first_ms = track.gained.popleft()[0]

    def latest(self, ref: WorkerRef) -> Report | None:
        track = self._tracks.get(ref)
        return track.last if track else None

    def tokens_per_s(self, ref: WorkerRef) -> float:
        """Tokens generated per second over the window, by what the reports list."""
        track = self._tracks.get(ref)
        if track is None or track.last_ms <= track.first_ms:
            return 0.0
        return 1000 * sum(tokens for _, tokens in track.gained) / (track.last_ms - track.first_ms)

    def keep(self, refs: Iterable[WorkerRef]) -> None:
        """Forgets everybody else."""
        kept = set(refs)
        self._tracks = {ref: track for ref, track in self._tracks.items() if ref in kept}


def _generated(before: Report, after: Report) -> int:
    """Growth of the known tokens of requests that both list: what ended in between is missed but for its listed part."""
    known: dict[tuple[RequestId, int], int] = {(own.request_id, own.attempt): own.num_tokens for own in before.owned}
    return sum(max(0, own.num_tokens - known.get((own.request_id, own.attempt), own.num_tokens)) for own in after.owned)


def worker_rows(members: Sequence[WorkerInfo], book: ReportBook) -> list[WorkerRow]:
    """In order of role and name."""
    fastest: dict[bytes, float] = {}
    for member in members:
        speed = member.profile.prefill_tokens_per_s()
        fastest[member.fingerprint] = max(speed, fastest.get(member.fingerprint, 0.0))
    rows = [_row(member, book, fastest[member.fingerprint]) for member in members]
    return sorted(rows, key=lambda row: (row.role != "high", row.name))


def _row(member: WorkerInfo, book: ReportBook, fastest: float) -> WorkerRow:
    report, speed = book.latest(member.ref), member.profile.prefill_tokens_per_s()
    owned, assists = (report.owned, report.assists) if report else ((), ())
    begun = sum(own.num_computed > 0 for own in owned)
    free = report.credit.blocks if report else member.total_blocks
    return WorkerRow(
        name=str(member.ref.worker),
        host=member.host,
        device=member.device,
        role="high" if speed >= HIGH_RATIO * fastest else "low",
        state=report.state.value if report else "silent",
        running=begun,
        waiting=len(owned) - begun,
        head_starts=len(assists),
        offered_tokens=sum(assist.offered for assist in assists),
        tokens_per_s=book.tokens_per_s(member.ref),
        kv_use=1 - min(1.0, free / member.total_blocks),
        prefill_tokens_per_s=speed,
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment of a pool."""

    pool: str
    phases: dict[str, int]
    """Live requests by phase."""
    workers: tuple[WorkerRow, ...]
    agents: tuple[AgentInfo, ...]

    @property
    def tokens_per_s(self) -> float:
        return sum(row.tokens_per_s for row in self.workers)
