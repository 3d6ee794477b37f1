"""A few worker cores with fake engines and loopback transports under one virtual clock: what a shell does, without its I/O.

After every event each core's and transport's books are checked; the log refuses gaps, repeats and tokens after the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from shared.errors import EngineError
from shared.messages import Assign, AssistOrder, Control, Pull, Report, Source
from shared.types import (
    GRANULE_TOKENS,
    AssistId,
    FinishReason,
    JobSeq,
    Phase,
    RequestId,
    RequestSpec,
    SamplingParams,
    TokenSpan,
    TransferId,
    WorkerId,
    WorkerRef,
)
from workers.core import WorkerCore, WorkerSettings
from workers.events import (
    AbandonPull,
    Assigned,
    Closed,
    Delivered,
    DropOutput,
    DropPeer,
    Emit,
    EndRequest,
    Launch,
    OpenOutput,
    Ordered,
    PullEnded,
    SendEnded,
    SendKv,
    SendReport,
    StartPull,
    StepDone,
    StepFailed,
    StopFound,
    Superseded,
    TellStory,
    TellWorker,
    Tick,
    WorkerCommand,
    WorkerEvent,
)
from workers.fake_engine import FakeEngine, FakeModel, reference_tokens
from workers.loopback_transport import LoopbackHub, LoopbackTransport
from workers.transport import Arrival, TransferHeader
from workers.verify import Expected, good_prefix, granule_digests

STEP_S = 0.02
MESSAGE_S = 0.001
TICK_S = 0.1


def make_spec(name: str, num_prompt: int, max_tokens: int = 8, **sampling: Any) -> RequestSpec:
    """A request whose prompt is its own; it runs to its full length unless told to mind EOS."""
    prompt = tuple((hash_of(name) + 31 * at) % 997 for at in range(num_prompt))
    params = SamplingParams(max_tokens, **{"temperature": 0.0, "ignore_eos": True, **sampling})
    return RequestSpec(RequestId(name), "fake", prompt, params, created_ms=0)


def hash_of(name: str) -> int:
    return sum(ord(letter) * 7**at for at, letter in enumerate(name))


class Node:
    """One worker: a core, and the shell around it."""

    def __init__(self, world: World, name: str, fault: Callable[[Any], str | None] | None, **settings: Any) -> None:
        self.world = world
        self.ref = WorkerRef(WorkerId(name), "1")
        sizes = {"block_tokens": 16, "total_blocks": 256, "token_budget": 128, "max_sequences": 32, **settings}
        self.engine = FakeEngine(world.model, block_tokens=sizes["block_tokens"], total_blocks=sizes["total_blocks"], fault=fault)
        self.core = WorkerCore(
            WorkerSettings(
                ref=self.ref,
                fingerprint=self.engine.kv.fingerprint,
                max_model_tokens=world.model.max_model_tokens,
                eos_token_ids=world.model.eos_token_ids,
                **sizes,
            )
        )
        self.transport = LoopbackTransport(world.hub, self.ref, 1 << 20)
        self.transport.start(self._arrived, self._failed, self._sent)
        self.reports: list[Report] = []
        self.stories: list[TellStory] = []
        self.pulls: dict[TransferId, StartPull] = {}
        self._payloads: dict[tuple[TransferId, WorkerRef], memoryview] = {}
        self._busy_until = 0.0
        self.alive = True

    def feed(self, event: WorkerEvent) -> None:
        if not self.alive:
            return
        for command in self.core.handle(event, self.world.now):
            self._carry_out(command)
        self.core.check()
        self.transport.check()

    def _carry_out(self, command: WorkerCommand) -> None:
        match command:
            case Launch():
                self._launch(command)
            case OpenOutput() | DropOutput():
                self.world.note(self, command)
            case Emit():
                self.world.append(self, command)
            case EndRequest():
                self.world.end(self, command)
            case StartPull():
                self._pull(command)
            case AbandonPull():
                self.transport.abandon(command.transfer)
            case SendKv():
                self._send(command)
            case DropPeer():
                self.transport.drop_peer(command.peer)
            case TellWorker():
                self.world.tell(command.worker, command.message)
            case SendReport():
                self.reports.append(command.report)
            case TellStory():
                self.stories.append(command)

    # -- engine

    def _launch(self, command: Launch) -> None:
        self.engine.launch(command.plan)
        self._busy_until = max(self._busy_until, self.world.now) + STEP_S
        self.world.at(self._busy_until, lambda: self._collect(command.plan.step))

    def _collect(self, step: int) -> None:
        try:
            result = self.engine.collect()
        except EngineError as error:
            self.feed(StepFailed(step, str(error)))
        else:
            self.feed(StepDone(result.step, result.token_ids, result.logprobs, result.seconds, result.top_logprobs))

    # -- transfers

    def _pull(self, command: StartPull) -> None:
        kv = self.engine.kv
        self.pulls[command.transfer] = command
        address = self.transport.receive(command.transfer, command.source, len(command.span) * kv.bytes_per_token, command.deadline_s)
        pull = Pull(command.transfer, command.assist, command.request_id, command.attempt, command.span, self.ref, address, kv.fingerprint)
        self.world.tell(command.source, pull)

    def _arrived(self, arrival: Arrival) -> None:
        pull, kv = self.pulls.pop(arrival.transfer), self.engine.kv
        granule_bytes = GRANULE_TOKENS * kv.bytes_per_token
        expected = Expected(pull.transfer, pull.request_id, pull.attempt, pull.span, kv.fingerprint, granule_bytes)
        good, _, why = good_prefix(arrival.header, arrival.payload, expected)
        if good:
            span = TokenSpan(pull.span.start, pull.span.start + good)
            self.engine.scatter(pull.blocks, span, arrival.payload[: good * kv.bytes_per_token])
        nbytes = len(arrival.payload)
        arrival.release()
        self.soon(PullEnded(pull.transfer, good, nbytes, arrival.seconds, why))

    def _failed(self, transfer: TransferId, error: str) -> None:
        del self.pulls[transfer]
        self.soon(PullEnded(transfer, 0, 0, 0.0, error))

    def _send(self, command: SendKv) -> None:
        kv = self.engine.kv
        granule_bytes = GRANULE_TOKENS * kv.bytes_per_token
        payload = self.transport.stage(len(command.span) * kv.bytes_per_token)
        self.engine.gather(command.blocks, command.span, payload)
        self._payloads[command.transfer, command.requester] = payload
        digests = granule_digests(payload, granule_bytes)
        header = TransferHeader(command.transfer, command.request_id, command.attempt, command.span, kv.fingerprint, granule_bytes, digests)
        self.transport.send(header, command.requester, command.address, payload, 30.0)

    def _sent(self, transfer: TransferId, requester: WorkerRef, error: str) -> None:
        self.transport.unstage(self._payloads.pop((transfer, requester)))
        self.soon(SendEnded(transfer, requester, error))

    def soon(self, event: WorkerEvent) -> None:
        self.world.at(self.world.now, lambda: self.feed(event))


class World:
    """Nodes, the wire, the logs, and a heap of what happens when."""

    def __init__(self, model: FakeModel | None = None) -> None:
        self.model = model or FakeModel(max_model_tokens=2048)
        self.hub = LoopbackHub(link_s=0.005, bytes_per_s=1e9)
        self.nodes: dict[WorkerRef, Node] = {}
        self.now = 0.0
        self.log: dict[RequestId, list[int]] = {}
        """Of choice 0."""
        self.others: dict[tuple[RequestId, int], list[int]] = {}
        """Of the choices beyond it."""
        self.ends: dict[tuple[RequestId, int], FinishReason] = {}
        """Of each choice."""
        self.finish: dict[RequestId, FinishReason | Phase] = {}
        self.specs: dict[RequestId, RequestSpec] = {}
        self.fences: dict[RequestId, int] = {}
        self.stops: dict[RequestId, int] = {}
        """Index at which the output stage finds a stop string."""
        self.notes: list[tuple[WorkerRef, OpenOutput | DropOutput]] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._jobs = 0

    def add(self, name: str, fault: Callable[[Any], str | None] | None = None, **settings: Any) -> Node:
        node = Node(self, name, fault, **settings)
        self.nodes[node.ref] = node
        return node

    # -- time

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, action))

    def run(self, seconds: float = 60.0, until: Callable[[], bool] = lambda: False) -> None:
        """Everything that happens in the next `seconds`, with ticks, or until the condition holds."""
        stop = self.now + seconds
        ticked = self.now
        while not until():
            ticked = ticked if ticked > self.now else self.now + TICK_S
            due = min(self._heap[0][0] if self._heap else ticked, ticked)
            wire = self.hub.next_due()
            if min(due, due if wire is None else wire) > stop:
                self.now = stop
                self.hub.advance(stop)
                return
            self._step(due, wire)

    def _step(self, due: float, wire: float | None) -> None:
        if wire is not None and wire <= due:
            self.now = max(self.now, wire)
            self.hub.advance(self.now)
        elif self._heap and self._heap[0][0] <= due:
            self.now, _, action = heapq.heappop(self._heap)
            self.hub.advance(self.now)
            action()
        else:
            self.now = due
            self.hub.advance(self.now)
            for node in list(self.nodes.values()):
                node.feed(Tick())

    def settle(self, seconds: float = 60.0) -> None:
        """Runs until every node is idle, then proves that nothing is left anywhere."""
        self.run(seconds, until=lambda: all(node.core.idle for node in self.nodes.values()))
        self.run(0.2)
        for node in self.nodes.values():
            assert node.core.idle, node.core
            assert node.core.blocks.free_blocks == node.core.settings.total_blocks
            assert node.transport.arena.held_bytes == 0, node.transport

    # -- the scheduler's words

    def next_seq(self) -> JobSeq:
        self._jobs += 1
        return JobSeq(1, self._jobs)

    def assign(self, node: Node, spec: RequestSpec, attempt: int = 1, source: Source | None = None) -> None:
        self.fences[spec.request_id] = attempt
        self.specs[spec.request_id] = spec
        choices = range(spec.sampling.n)
        known = tuple(Delivered(tuple(self.tokens(spec, choice)), self.ends.get((spec.request_id, choice))) for choice in choices)
        job = Assign(self.next_seq(), spec.request_id, attempt, len(spec.prompt) + len(known[0].token_ids), source)
        node.feed(Assigned(job, spec, known))

    def tokens(self, spec: RequestSpec, choice: int) -> list[int]:
        """What the log has of one choice; grows."""
        return self.others.setdefault((spec.request_id, choice), []) if choice else self.log.setdefault(spec.request_id, [])

    def order(self, node: Node, spec: RequestSpec, limit: int | None = None) -> AssistId:
        assist = AssistId(f"assist-{spec.request_id}")
        limit = len(spec.prompt) if limit is None else limit
        node.feed(Ordered(AssistOrder(self.next_seq(), assist, spec.request_id, limit), spec))
        return assist

    def tell(self, worker: WorkerRef, message: Control) -> None:
        def deliver() -> None:
            if node := self.nodes.get(worker):
                node.feed(message)

        self.at(self.now + MESSAGE_S, deliver)

    # -- the log

    def note(self, node: Node, command: OpenOutput | DropOutput) -> None:
        self.notes.append((node.ref, command))

    def append(self, node: Node, emit: Emit) -> None:
        """The log's promise: no gap, no repeat, nothing under an old attempt, nothing after the end."""
        if self._fenced(node, emit.request_id, emit.attempt):
            return
        spec = self.specs[emit.request_id]
        log, choice = self.tokens(spec, emit.choice), (emit.request_id, emit.choice)
        if emit.request_id in self.finish or choice in self.ends:
            return
        assert emit.index == len(log), f"{emit} does not follow {len(log)} tokens"
        log.extend(emit.token_ids)
        stop = self.stops.get(emit.request_id)
        if stop is not None and len(log) > stop:
            node.soon(StopFound(emit.request_id, emit.attempt, emit.choice, stop))
            self._end_choice(node, emit, FinishReason.STOP)
        elif emit.finish:
            self._end_choice(node, emit, emit.finish)

    def _end_choice(self, node: Node, emit: Emit, how: FinishReason) -> None:
        """The last choice's end is the request's."""
        self.ends[emit.request_id, emit.choice] = how
        if all((emit.request_id, choice) in self.ends for choice in range(self.specs[emit.request_id].sampling.n)):
            self._finish(node, emit.request_id, emit.attempt, how)

    def end(self, node: Node, command: EndRequest) -> None:
        if not self._fenced(node, command.request_id, command.attempt):
            self._finish(node, command.request_id, command.attempt, command.phase)

    def _fenced(self, node: Node, request_id: RequestId, attempt: int) -> bool:
        fenced = attempt < self.fences[request_id]
        if fenced:
            node.soon(Superseded(request_id, attempt))
        return fenced

    def _finish(self, node: Node, request_id: RequestId, attempt: int, how: FinishReason | Phase) -> None:
        """The first end wins; either way the owner hears that the record is closed."""
        self.finish.setdefault(request_id, how)
        self.at(self.now + MESSAGE_S, lambda: node.feed(Closed(request_id, attempt)))

    # -- the oracle

    def expect_answer(self, spec: RequestSpec) -> None:
        for choice in range(spec.sampling.n):
            assert tuple(self.tokens(spec, choice)) == reference_tokens(spec.prompt, spec.sampling, self.model, choice=choice)

    def expect_prefix(self, spec: RequestSpec) -> None:
        for choice in range(spec.sampling.n):
            log = self.tokens(spec, choice)
            assert tuple(log) == reference_tokens(spec.prompt, spec.sampling, self.model, choice=choice)[: len(log)]
