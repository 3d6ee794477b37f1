"""Any event at any moment, repeated, late or never asked for: the books balance, no index is told twice or left out."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shared.messages import (
    AbandonTransfer,
    Assign,
    AssistOrder,
    Cancel,
    Drain,
    Pull,
    PullRefused,
    ReleaseAssist,
    Revoke,
    Source,
    StopAssist,
)
from shared.types import AssistId, FinishReason, JobSeq, RequestId, TokenSpan, TransferId, WorkerId, WorkerRef
from tests.support.core_harness import make_spec
from workers.core import WorkerCore, WorkerSettings
from workers.events import (
    Assigned,
    Closed,
    Delivered,
    DropOutput,
    Emit,
    EndRequest,
    Launch,
    OpenOutput,
    Ordered,
    PeerLost,
    PullEnded,
    SendEnded,
    SendKv,
    StartPull,
    StepDone,
    StepFailed,
    StopFound,
    Superseded,
    Tick,
    Unloadable,
    WorkerEvent,
)

ME, PEER = WorkerRef(WorkerId("me"), "1"), WorkerRef(WorkerId("peer"), "1")
CHOICES = (1, 1, 3, 1, 2, 1)
SPECS = {
    spec.request_id: spec
    for at in range(6)
    for spec in [make_spec(f"r{at}", 20 + 61 * at, max_tokens=4 + at, ignore_eos=False, n=CHOICES[at])]
}

requests = st.sampled_from(sorted(SPECS))
attempts = st.integers(1, 4)
picks = st.integers(0, 10)
transfers = st.integers(1, 12).map(TransferId)


class Chaos(RuleBasedStateMachine):
    @initialize(depth=st.sampled_from([1, 2]), blocks=st.integers(23, 40))
    def start(self, depth: int, blocks: int) -> None:
        self.core = WorkerCore(
            WorkerSettings(
                ref=ME,
                fingerprint=b"layout",
                block_tokens=16,
                total_blocks=blocks,
                token_budget=64,
                max_sequences=6,
                max_model_tokens=512,
                eos_token_ids=frozenset({0}),
                depth=depth,
                watermark_blocks=1,
                max_failures=1000,
            )
        )
        self.now = 0.0
        self.jobs = 0
        self.launched: list[Launch] = []
        self.pulls: list[StartPull] = []
        self.sends: list[SendKv] = []
        self.next_index: dict[tuple[RequestId, int, int], int] = {}
        """By request, attempt and choice."""
        self.over: set[tuple[RequestId, int, int]] = set()

    def feed(self, event: WorkerEvent) -> None:
        for command in self.core.handle(event, self.now):
            match command:
                case Launch():
                    self.launched.append(command)
                    assert len(self.launched) <= self.core.settings.depth
                case StartPull():
                    self.pulls.append(command)
                case SendKv():
                    self.sends.append(command)
                case OpenOutput():
                    self._opened(command)
                case Emit():
                    self._told(command)
                case EndRequest() | DropOutput():
                    self._all_over(command.request_id, command.attempt)
                case _:
                    pass

    def _opened(self, command: OpenOutput) -> None:
        request_id = command.spec.request_id
        for choice in range(CHOICES[int(request_id[1:])]):
            key = (request_id, command.attempt, choice)
            assert key not in self.next_index, "an attempt is opened twice"
            known = command.delivered[choice] if choice < len(command.delivered) else Delivered()
            self.next_index[key] = len(known.token_ids)
            if known.finish:
                self.over.add(key)

    def _all_over(self, request_id: RequestId, attempt: int) -> None:
        self.over |= {(request_id, attempt, choice) for choice in range(max(CHOICES))}

    def _told(self, emit: Emit) -> None:
        key = (emit.request_id, emit.attempt, emit.choice)
        assert key not in self.over, f"{emit} after the end of its attempt"
        assert emit.index == self.next_index[key]
        self.next_index[key] += len(emit.token_ids)
        if emit.finish:
            self.over.add(key)

    def seq(self) -> JobSeq:
        self.jobs += 1
        return JobSeq(1, self.jobs)

    # -- jobs

    @rule(
        request=requests,
        attempt=attempts,
        generated=st.lists(st.integers(0, 4), min_size=1, max_size=3),
        ended=st.integers(0, 2),
        source=st.sampled_from([None, ME, PEER]),
        tokens=picks,
    )
    def assigned(self, request: str, attempt: int, generated: list[int], ended: int, source: WorkerRef | None, tokens: int) -> None:
        spec = SPECS[RequestId(request)]
        given = Source(AssistId(f"a-{request}-{tokens % 2}"), source, 64 * tokens) if source else None
        job = Assign(self.seq(), spec.request_id, attempt, len(spec.prompt) + generated[0], given)
        finished = {at for at, count in enumerate(generated) if count and at == ended - 1}
        known = [Delivered(tuple(range(1, n + 1)), FinishReason.STOP if at in finished else None) for at, n in enumerate(generated)]
        self.feed(Assigned(job, spec, tuple(known[: spec.sampling.n])))

    @rule(request=requests, number=st.integers(0, 1), limit=st.integers(0, 400))
    def ordered(self, request: str, number: int, limit: int) -> None:
        spec = SPECS[RequestId(request)]
        self.feed(Ordered(AssistOrder(self.seq(), AssistId(f"a-{request}-{number}"), spec.request_id, limit), spec))

    @rule(request=requests, attempt=attempts)
    def unloadable(self, request: str, attempt: int) -> None:
        self.feed(Unloadable(Assign(self.seq(), RequestId(request), attempt, 10), None))

    # -- steps

    @rule(pick=picks, token=st.integers(0, 6))
    def step_done(self, pick: int, token: int) -> None:
        if self.launched:
            plan = self.launched.pop(0).plan
            count = len(plan.samples)
            self.feed(StepDone(plan.step, tuple((token + at) % 7 for at in range(count)), (0.0,) * count, 0.01))
            if not pick:
                self.feed(StepDone(plan.step, (1,) * count, (0.0,) * count, 0.01))

    @rule(last=st.booleans())
    def step_failed(self, last: bool) -> None:
        """Also one that is refused while an earlier step still runs."""
        if self.launched:
            self.feed(StepFailed(self.launched.pop(-1 if last else 0).plan.step, "planned"))

    # -- transfers

    @rule(pick=picks, good=st.integers(0, 500), repeated=st.booleans())
    def pull_ended(self, pick: int, good: int, repeated: bool) -> None:
        if self.pulls:
            pull = self.pulls.pop(pick % len(self.pulls))
            for _ in range(1 + repeated):
                self.feed(PullEnded(pull.transfer, min(good, len(pull.span)), 0, 0.0))

    @rule(transfer=transfers, sender=st.sampled_from([ME, PEER]))
    def pull_refused(self, transfer: TransferId, sender: WorkerRef) -> None:
        self.feed(PullRefused(transfer, sender, "no"))

    @rule(
        request=requests, number=st.integers(0, 1), transfer=transfers, start=st.integers(0, 2), stop=st.integers(0, 6), other=st.booleans()
    )
    def pull(self, request: str, number: int, transfer: TransferId, start: int, stop: int, other: bool) -> None:
        span = TokenSpan(64 * min(start, stop), 64 * stop)
        layout = b"other" if other and not number else b"layout"
        self.feed(Pull(transfer, AssistId(f"a-{request}-{number}"), RequestId(request), 1, span, PEER, b"address", layout))

    @rule(pick=picks, error=st.sampled_from(["", "cut"]), repeated=st.booleans())
    def send_ended(self, pick: int, error: str, repeated: bool) -> None:
        if self.sends:
            send = self.sends.pop(pick % len(self.sends))
            for _ in range(1 + repeated):
                self.feed(SendEnded(send.transfer, send.requester, error))

    @rule(transfer=transfers)
    def abandon_transfer(self, transfer: TransferId) -> None:
        self.feed(AbandonTransfer(transfer, PEER))

    @rule()
    def peer_lost(self) -> None:
        self.feed(PeerLost(PEER))

    # -- control

    @rule(request=requests, number=st.integers(0, 1), release=st.booleans())
    def stop_or_release(self, request: str, number: int, release: bool) -> None:
        assist = AssistId(f"a-{request}-{number}")
        self.feed(ReleaseAssist(assist) if release else StopAssist(assist, PEER))

    @rule(request=requests, error=st.sampled_from(["", "timeout"]))
    def cancel(self, request: str, error: str) -> None:
        self.feed(Cancel(RequestId(request), error))

    @rule(request=requests, attempt=attempts)
    def revoke(self, request: str, attempt: int) -> None:
        self.feed(Revoke(RequestId(request), attempt))

    @rule(
        request=requests,
        attempt=attempts,
        what=st.sampled_from(["stop", "superseded", "closed"]),
        index=st.integers(0, 9),
        choice=st.integers(0, 2),
    )
    def from_output(self, request: str, attempt: int, what: str, index: int, choice: int) -> None:
        request_id = RequestId(request)
        if self._hears(what, request_id, attempt):
            self.over.add((request_id, attempt, choice))
            self._all_over(request_id, attempt) if what == "closed" else None
        known: dict[str, Any] = {
            "stop": StopFound(request_id, attempt, choice, index),
            "superseded": Superseded(request_id, attempt),
            "closed": Closed(request_id, attempt),
        }
        self.feed(known[what])

    def _hears(self, what: str, request_id: RequestId, attempt: int) -> bool:
        """A stop of the running attempt is its choice's end, a close all choices': no token may follow."""
        owned = self.core.owned.get(request_id)
        return what != "superseded" and owned is not None and owned.attempt == attempt

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 5.0, 61.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())

    @rule(seconds=st.sampled_from([0.0, 5.0, 30.0]), chance=picks)
    def drain(self, seconds: float, chance: int) -> None:
        if not chance:
            self.feed(Drain(seconds))

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "core"):
            self.core.check()

    def teardown(self) -> None:
        """Everything outstanding ends, everything held is let go: all blocks are free."""
        if not hasattr(self, "core"):
            return
        for request_id, owned in list(self.core.owned.items()):
            self.feed(Superseded(request_id, owned.attempt))
        for assist in list(self.core.assists):
            self.feed(ReleaseAssist(assist))
        while self.launched:
            self.step_done(1, 1)
        while self.pulls:
            self.pull_ended(0, 0, False)
        while self.sends:
            self.send_ended(0, "", False)
        self.core.check()
        assert self.core.idle
        assert self.core.blocks.free_blocks == self.core.settings.total_blocks


TestChaos = Chaos.TestCase
TestChaos.settings = settings(max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
