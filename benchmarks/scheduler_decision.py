"""Microseconds per scheduler decision, at several sizes: `python -m benchmarks.scheduler_decision`.

One round is what a saturated high-end causes: it closes a request and reports credit (one decision: the next request is placed
there), and the placement is answered. Waiting requests are refilled, so the line keeps its length.
"""

from __future__ import annotations

import time
from collections import deque

from scheduler.core import SchedulerCore
from scheduler.events import Elected, Joined, Known, Place, Placed, SchedulerCommand, SchedulerEvent
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
    """Every high-end owns `OWNED` requests; each round one of them ends and the next is taken."""

    def __init__(self, workers: int, waiting: int) -> None:
        self.core = SchedulerCore(SchedulerSettings(max_waiting=waiting * 2))
        self.core.handle(Elected(1), 0.0)
        self.now, self.submitted, self.counter = 0.0, 0, 0
        self.owned: dict[WorkerRef, deque[Assign]] = {}
        self.high_ends: list[WorkerRef] = []
        for info in [worker(number) for number in range(workers)]:
            self.core.handle(Joined(info), self.now)
            if info.profile is FAST:
                self.high_ends.append(info.ref)
                self.owned[info.ref] = deque()
        for _ in range(waiting):
            self.submit()
        for ref in self.high_ends * OWNED:
            self.round(ref)

    def submit(self) -> None:
        self.submitted += 1
        self.core.handle(request(self.submitted), self.now)

    def round(self, ref: WorkerRef) -> tuple[float, int]:
        """(seconds, decisions) of one report and the answers to what it caused."""
        report = self.report(ref)
        spent, commands = self.timed(report)
        placed = [command for command in commands if isinstance(command, Place)]
        for command in placed:
            spent += self.timed(Placed(command.worker, command.job, WriteStatus.DONE))[0]
            if isinstance(command.job, Assign):
                self.owned[ref].append(command.job)
                self.submit()
        return spent, sum(isinstance(command.job, Assign) for command in placed)

    def timed(self, event: SchedulerEvent) -> tuple[float, list[SchedulerCommand]]:
        started = time.thread_time()
        commands = self.core.handle(event, self.now)
        return time.thread_time() - started, commands

    def report(self, ref: WorkerRef) -> Report:
        self.counter += 1
        self.now += 1e-4
        owned = self.owned[ref]
        closed = (owned.popleft().request_id,) if len(owned) == OWNED else ()
        seen = owned[-1].seq if owned else JobSeq(0, 0)
        states = tuple(OwnedState(job.request_id, job.attempt, job.num_tokens + 1, job.num_tokens) for job in owned)
        return Report(ref, self.counter, WorkerState.READY, seen, Credit(64, 20_000, 100), states, (), closed)


def main() -> None:
    print(f"{'workers':>8} {'waiting':>8} {'decisions':>10} {'us/decision':>12}   (reports list {OWNED} requests)")
    for workers, waiting in SIZES:
        bench = Bench(workers, waiting)
        rounds = [bench.round(bench.high_ends[number % len(bench.high_ends)]) for number in range(2_000)]
        decisions = sum(count for _, count in rounds)
        print(f"{workers:>8} {waiting:>8} {decisions:>10} {sum(seconds for seconds, _ in rounds) / max(1, decisions) * 1e6:>12.1f}")


if __name__ == "__main__":
    main()
