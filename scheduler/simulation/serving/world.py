"""One cluster, one policy, one trace: from the first arrival until the last answer has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from scheduler.events import PublishLoad
from scheduler.settings import SchedulerSettings
from scheduler.simulation.serving.agenda import Agenda
from scheduler.simulation.serving.links import Links
from scheduler.simulation.serving.plan import BLOCK_TOKENS, ClusterPlan, WorkerPlan
from scheduler.simulation.serving.profiles import fitted_profile
from scheduler.simulation.serving.records import Outcome, RequestRecord
from scheduler.simulation.serving.scheduler_node import SchedulerNode
from scheduler.simulation.serving.trace import Arrival, clipped
from scheduler.simulation.serving.worker_node import WorkerNode, as_ref
from shared.messages import Assign, Control, Report, Submission, WorkerInfo
from shared.types import RequestId, RequestSpec, SamplingParams, WorkerRef
from workers.settings import WorkerSettings

LIMIT_S = 1e6
MAX_TOKENS = 4096
"""What every client sends as `max_tokens`: nobody knows how long an answer will be, the scheduler least of all."""
FINGERPRINT = b"simulated"


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be simulated."""

    plan: ClusterPlan
    arrivals: Sequence[Arrival]
    settings: SchedulerSettings
    seed: int = 0


class ServingWorld:
    def __init__(self, serving: Serving) -> None:
        self.plan = serving.plan
        self.agenda = Agenda()
        self.links = Links(self.plan.link_s, self.plan.link_bytes_per_s)
        self.requests = [RequestRecord(arrival) for arrival in clipped(serving.arrivals, self.plan.longest_tokens)]
        rng = Random(serving.seed)
        self.workers = [self._worker(kind, at, rng) for kind in self.plan.workers for at in range(kind.count)]
        self._workers = {worker.ref: worker for worker in self.workers}
        self.scheduler = SchedulerNode(self, serving.settings)
        self._left = len(self.requests)

    def _worker(self, kind: WorkerPlan, at: int, rng: Random) -> WorkerNode:
        device = kind.device(self.plan.model)
        profile = fitted_profile(device, self.plan, rng)
        ref, blocks = as_ref(f"{kind.name}-{at}" if kind.count > 1 else kind.name), kind.blocks(self.plan.model)
        budget, longest = max(self.plan.token_budget, kind.max_sequences), self.plan.model.max_tokens
        info = WorkerInfo(
            ref,
            self.plan.model.name,
            FINGERPRINT,
            kind.gpu.name,
            "simulated",
            profile,
            BLOCK_TOKENS,
            blocks,
            kind.max_sequences,
            budget,
            longest,
            usd_per_hour=kind.gpu.usd_per_hour or 0.0,
        )
        settings = WorkerSettings(
            ref,
            FINGERPRINT,
            BLOCK_TOKENS,
            blocks,
            budget,
            kind.max_sequences,
            longest,
            kv_bytes_per_token=self.plan.model.kv_bytes_per_token,
            profile=profile,
        )
        return WorkerNode(self, info, settings, device)

    def run(self) -> None:
        """Raises `AssertionError` if requests are left that nobody will ever end."""
        self.scheduler.start()
        for worker in self.workers:
            worker.start()
        for number, record in enumerate(self.requests):
            self.agenda.at(record.arrival.at_s, partial(self._arrive, number))
        if not self.agenda.play(lambda: not self._left, LIMIT_S):
            raise AssertionError(f"{self._left} requests never end: {self.scheduler!r} {self.workers!r}")
        for worker in self.workers:
            worker.check()

    def outcome(self) -> Outcome:
        """Of a world that has run."""
        records = [worker.record for worker in self.workers]
        return Outcome(self.plan, self.requests, self.agenda.now, records, self.links.bytes_moved, self.scheduler.decisions)

    def _arrive(self, number: int) -> None:
        arrival = self.requests[number].arrival
        submission = Submission(RequestId(str(number)), arrival.prompt_tokens, MAX_TOKENS, int(1000 * arrival.at_s), background=True)
        self.agenda.after(self.plan.message_s, partial(self.scheduler.submitted, submission))

    # -- what nodes ask and tell

    def spec(self, request_id: RequestId) -> RequestSpec:
        """The worker is told when to stop, by `max_tokens`: until then it knows as little as anybody."""
        arrival = self.requests[int(request_id)].arrival
        sampling = SamplingParams(max_tokens=arrival.output_tokens, temperature=0.0, ignore_eos=True)
        return RequestSpec(request_id, self.plan.model.name, (1,) * arrival.prompt_tokens, sampling, 0, salt=request_id)

    def worker(self, ref: WorkerRef) -> WorkerNode:
        return self._workers[ref]

    def tell_worker(self, ref: WorkerRef, message: Control) -> None:
        self.agenda.after(self.plan.message_s, partial(self._workers[ref].take_control, message))

    def tell_scheduler(self, report: Report) -> None:
        self.agenda.after(self.plan.message_s, partial(self.scheduler.feed, report))

    def load_published(self, load: PublishLoad) -> None:
        """Here nobody is refused."""

    def assigned(self, job: Assign, worker: WorkerRef) -> None:
        record = self.requests[int(job.request_id)]
        record.owner = worker.worker
        record.cut = job.source.tokens if job.source else 0

    def pulled(self, request_id: RequestId, good_tokens: int) -> None:
        self.requests[int(request_id)].cut = good_tokens

    def emitted(self, request_id: RequestId, tokens: int, at: float) -> None:
        self.requests[int(request_id)].token(at, tokens)

    def ended(self, request_id: RequestId) -> None:
        self.requests[int(request_id)].ended_at = self.agenda.now
        self._left -= 1
