"""Microseconds per scheduler decision, at several sizes: `python -m benchmarks.scheduler_decision`.

One round is what a saturated high-end causes: it closes a request and reports credit (one decision: the next request is placed
there), and the placement is answered. Waiting requests are refilled, so the line keeps its length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from scheduler.core import SchedulerCore
from scheduler.events import Elected, Joined, Known, Place, Placed, SchedulerCommand
from scheduler.settings import SchedulerSettings
from shared.fabric import Record, WriteStatus
from shared.messages import Assign, Credit, OwnedState, Report, Submission, WorkerInfo, WorkerState
from shared.profile import Profile
from shared.types import NO_GATEWAY, JobSeq, Phase, RequestId, WorkerId, WorkerRef

FAST = Profile(0.01, 2e-5, 0.0, 1e-4, 1e-8, 131072)
SLOW = Profile(0.02, 1e-4, 0.0, 1e-4, 1e-8, 131072)
SIZES = ((2, 1_000), (8, 1_000), (8, 100_000), (100, 10_000), (1_000, 100_000))
OWNED = 64


def worker(number: int) -> WorkerInfo:
    ref = WorkerRef(WorkerId(f"w{number}"), "1")
    profile = FAST if number % 2 == 0 else SLOW
    return WorkerInfo(ref, "model", b"layout", "gpu", "host", profile, 16, 40_000, 256, 512, 32_768)


def request(number: int) -> Known:
    submission = Submission(RequestId(f"r{number}"), 200 + number % 1800, 256, 0, background=True)
    return Known(Record(submission.request_id, Phase.QUEUED, 1, None, False, 0, submission, NO_GATEWAY, submission.num_prompt))


class Bench:
    def __init__(self, workers: int, waiting: int) -> None:
        self.core = SchedulerCore(SchedulerSettings(max_waiting=waiting * 2))
        self.core.handle(Elected(1), 0.0)
        self.now, self.submitted, self.counter = 0.0, 0, 0
        self.owned: dict[WorkerRef, tuple[OwnedState, ...]] = {}
        self.infos = [worker(number) for number in range(workers)]
        for info in self.infos:
            self.core.handle(Joined(info), self.now)
            others = (OwnedState(RequestId(f"{info.ref}-{n}"), 1, 1000, 999) for n in range(OWNED))
            self.owned[info.ref] = tuple(others)
        for _ in range(waiting):
            self.submit()

    def submit(self) -> list[SchedulerCommand]:
        self.submitted += 1
        return self.core.handle(request(self.submitted), self.now)

    def rounds(self, count: int) -> Iterator[tuple[float, int]]:
        """(seconds, decisions) of `count` rounds over the high-ends in turn."""
        high_ends = [info for info in self.infos if info.profile is FAST]
        for number in range(count):
            yield self.round(high_ends[number % len(high_ends)].ref)

    def round(self, ref: WorkerRef) -> tuple[float, int]:
        self.counter += 1
        self.now += 1e-4
        seen, ended = JobSeq(1, 1 << 40), tuple(RequestId(f"r{n}") for n in ())
        report = Report(ref, self.counter, WorkerState.READY, seen, Credit(64, 20_000, 100), self.owned[ref], (), ended)
        started = time.perf_counter()
        commands = self.core.handle(report, self.now)
        spent = time.perf_counter() - started
        placed = [c for c in commands if isinstance(c, Place) and isinstance(c.job, Assign)]
        for command in placed:
            answer = Placed(command.worker, command.job, WriteStatus.DONE)
            started = time.perf_counter()
            self.core.handle(answer, self.now)
            spent += time.perf_counter() - started
            self.submit()
        return spent, len(placed)


def main() -> None:
    print(f"{'workers':>8} {'waiting':>8} {'decisions':>10} {'us/decision':>12}   (reports list {OWNED} requests)")
    for workers, waiting in SIZES:
        bench = Bench(workers, waiting)
        spent = [one for one in bench.rounds(2_000) if one[1]]
        decisions = sum(count for _, count in spent)
        print(f"{workers:>8} {waiting:>8} {decisions:>10} {sum(s for s, _ in spent) / max(1, decisions) * 1e6:>12.1f}")


if __name__ == "__main__":
    main()
