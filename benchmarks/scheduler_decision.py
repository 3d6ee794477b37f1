"""Microseconds per scheduler decision, over workers and waiting requests: `python -m benchmarks.scheduler_decision`.

A round is what a saturated high-end causes: it closes a request and reports credit, the next request is placed there (one decision:
who, whose head start, where to cut, and the story of it), the placement is answered. A report lists all that its worker owns; what
reading the list costs is measured apart, by reports without credit, and taken off. Low-ends are there, hold head starts and have no
room for more. The line keeps its length.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from itertools import chain
from statistics import median

from benchmarks.rows import Row, write_rows
from scheduler.core import SchedulerCore
from scheduler.events import Elected, Joined, Known, Place, Placed, SchedulerCommand, SchedulerEvent
from scheduler.settings import SchedulerSettings
from shared.fabric import Record, WriteStatus
from shared.messages import Assign, AssistState, Credit, OwnedState, Report, Submission, WorkerInfo, WorkerState
from shared.profile import Profile
from shared.types import NO_GATEWAY, AssistId, JobSeq, Phase, RequestId, WorkerId, WorkerRef

FAST = Profile(0.01, 2e-5, 0.0, 1e-4, 1e-8, 131072, 0.0005, 12.5e9)
SLOW = Profile(0.02, 1e-4, 0.0, 1e-4, 1e-8, 131072, 0.0005, 12.5e9)
SIZES = ((2, 1_000), (8, 1_000), (8, 100_000), (32, 100_000), (100, 100_000), (300, 100_000), (1_000, 100_000))
LIMITS_US = {8: 100.0, 1_000: 2_000.0}
"""What a decision may cost, by workers; the limit of 1,000 with 100,000 waiting requests."""
OWNED = 16
ROUNDS = 400
BATCHES = 5
NOTHING = Credit(0, 0, 0)


def worker(number: int) -> WorkerInfo:
    ref = WorkerRef(WorkerId(f"w{number}"), "1")
    profile = FAST if number % 2 == 0 else SLOW
    return WorkerInfo(ref, "model", b"layout", "gpu", "host", profile, 16, 40_000, 256, 512, 32_768)


def request(number: int) -> Known:
    submission = Submission(RequestId(f"r{number}"), 200 + number % 1800, 256, 0, background=True)
    return Known(Record(submission.request_id, Phase.QUEUED, 1, None, False, 0, submission, NO_GATEWAY, submission.num_prompt))


class Bench:
    """Every high-end owns `OWNED` requests; each round one of them ends and the next is taken."""

    def __init__(self, workers: int, waiting: int) -> None:
        self.core = SchedulerCore(SchedulerSettings(max_waiting=waiting * 2, liveness_s=1e9))
        self.core.handle(Elected(1), 0.0)
        self.now, self.submitted, self.counter = 0.0, 0, 0
        self.owned: dict[WorkerRef, deque[Assign]] = {}
        self.given: dict[WorkerRef, list[AssistState]] = {}
        for info in [worker(number) for number in range(workers)]:
            self.core.handle(Joined(info), self.now)
            if info.profile is FAST:
                self.owned[info.ref] = deque()
            else:
                self.given[info.ref] = []
        self.high_ends = list(self.owned)
        for _ in range(waiting):
            self.submit()
        for ref in self.given:
            self.answer(self.core.handle(self.report(ref, Credit(512, 20_000, 100)), self.now))
        for ref in self.high_ends * OWNED:
            self.round(ref)

    def submit(self) -> None:
        self.submitted += 1
        self.core.handle(request(self.submitted), self.now)

    def round(self, ref: WorkerRef) -> tuple[float, int]:
        """(seconds, decisions) of one report with credit and the answers to what it caused, without the reading of its list."""
        reading, _ = self.timed(self.report(ref, NOTHING))
        spent, commands = self.timed(self.report(ref, Credit(64, 20_000, 100), close=True))
        answered, decisions = self.answer(commands)
        return max(0.0, spent - reading) + answered, decisions

    def answer(self, commands: list[SchedulerCommand]) -> tuple[float, int]:
        spent, decisions = 0.0, 0
        for place in [command for command in commands if isinstance(command, Place)]:
            spent += self.timed(Placed(place.worker, place.job, WriteStatus.DONE))[0]
            if isinstance(place.job, Assign):
                decisions += 1
                self.owned[place.worker].append(place.job)
                self.submit()
            else:
                self.given[place.worker].append(AssistState(AssistId(place.job.assist), place.job.request_id, 64, stopped=False))
        return spent, decisions

    def timed(self, event: SchedulerEvent) -> tuple[float, list[SchedulerCommand]]:
        started = time.perf_counter()
        commands = self.core.handle(event, self.now)
        return time.perf_counter() - started, commands

    def report(self, ref: WorkerRef, credit: Credit, *, close: bool = False) -> Report:
        self.counter += 1
        self.now += 1e-4
        owned = self.owned.get(ref, deque())
        closed = (owned.popleft().request_id,) if close and len(owned) == OWNED else ()
        seen = owned[-1].seq if owned else JobSeq(0, 0)
        states = tuple(OwnedState(job.request_id, job.attempt, job.num_tokens + 1, job.num_tokens) for job in owned)
        report = Report(ref, self.counter, WorkerState.READY, seen, credit, states, (), closed)
        return replace(report, assists=tuple(self.given[ref])) if ref in self.given else report


def microseconds(workers: int, waiting: int) -> tuple[float, float]:
    """Of a decision: the median of `ROUNDS` in the quietest of `BATCHES`, and the median of all.

    By the wall clock: reading the thread's own costs more than a decision in some sandboxes. What runs beside it can only make a batch
    dearer, so the cheapest is nearest to what the decisions themselves cost; on a quiet machine both figures are the same.
    """
    bench = Bench(workers, waiting)
    batches = [batch(bench) for _ in range(BATCHES)]
    return min(map(median, batches)), median(chain.from_iterable(batches))


def batch(bench: Bench) -> list[float]:
    """Microseconds of each decision of `ROUNDS` rounds."""
    rounds = [bench.round(bench.high_ends[number % len(bench.high_ends)]) for number in range(ROUNDS)]
    return [seconds / decisions * 1e6 for seconds, decisions in rounds if decisions]


def main() -> None:
    print(f"{'workers':>8} {'waiting':>8} {'us/decision':>12} {'of all':>8}")
    curve: dict[tuple[int, int], float] = {}
    for workers, waiting in SIZES:
        curve[workers, waiting], noisy = microseconds(workers, waiting)
        print(f"{workers:>8} {waiting:>8} {curve[workers, waiting]:>12.1f} {noisy:>8.1f}", flush=True)
    rows = [
        Row(f"a decision, {workers} workers, {waiting} waiting", "us", spent, LIMITS_US.get(workers, spent), "limit",
            1.0 if workers in LIMITS_US else None, lower_is_better=True)
        for (workers, waiting), spent in curve.items()
    ]  # fmt: skip
    few, many = curve[8, 100_000], curve[1_000, 100_000]
    rows.append(Row("growth, 8 to 1,000 workers", "x", many / few, 1_000 / 8, "linear growth", 1.0, lower_is_better=True))
    write_rows("scheduler_decision", rows)


if __name__ == "__main__":
    main()
