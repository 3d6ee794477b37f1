"""Gateways and the clients behind them: they submit, follow logs, leave and come back, cancel, and remember what they were shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from scheduler.simulation.process import Process, Reader
from scheduler.simulation.steps import Step
from shared.fabric import LoggedEntry, LogHead, Record, SubmitAnswer, SubmitStatus
from shared.log_check import Loss, loss_of
from shared.messages import GatewayBeat, LogEnd, LogEntry, LogTokens, Submission
from shared.types import GatewayId, RequestId, RequestSpec

if TYPE_CHECKING:
    from scheduler.simulation.world import World

BEAT_S = 1.0
RETRY_S = 0.3
VERIFY_S = 0.4
"""After the server came back without its last writes, and then again and again: what it still has of a followed log is looked at."""
ATTEMPTS = 12
"""Tries of a write to a server that does not answer, before the client is told so."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a client will do, in seconds after its arrival; None: never."""

    cancels_after_s: float | None = None
    leaves_after_s: float | None = None
    returns_after_s: float | None = None
    """After leaving."""
    idempotent: bool = False
    """It sends an idempotency key, so it may submit again when it never learned what became of the first time."""


@dataclass
class Client:
    """One request's client, and its memory."""

    world: World
    spec: RequestSpec
    submission: Submission
    habits: Habits
    gateway: GatewayShell | None = None
    accepted: bool = False
    gone: bool = False
    """It left for good, or was told that the server does not answer."""
    cancel_asked: bool = False
    shown: list[LogEntry] = field(default_factory=list)
    position: str = "0-0"
    ended: bool = False
    lost: Loss | None = None
    """Its stream was ended by this error."""
    indexes: dict[int, int] = field(default_factory=dict)
    """The next token of each choice."""
    alone_since: float | None = None
    longest_alone_s: float = 0.0
    tries: int = 0

    @property
    def request_id(self) -> RequestId:
        return self.spec.request_id

    @property
    def settled(self) -> bool:
        return self.gone or self.ended or self.lost is not None

    def arrive(self) -> None:
        self._submit()
        habits = self.habits
        if habits.cancels_after_s is not None:
            self.world.after(habits.cancels_after_s, self._cancel)
        if habits.leaves_after_s is not None:
            self.world.after(habits.leaves_after_s, self._leave)

    def _submit(self) -> None:
        self.gateway = self.world.any_gateway()
        self.gateway.submit(self)

    def _cancel(self) -> None:
        if self.accepted and self.gateway and self.gateway.alive and not self.ended:
            self.cancel_asked = True
            self.gateway.cancel(self.request_id)

    def _leave(self) -> None:
        if self.settled or not self.accepted or self.gateway is None:
            return
        self.world.tell(f"client of {self.request_id}", "leaves", None)
        self.gateway.unfollow(self)
        self.gateway = None
        self.is_alone()
        if self.habits.returns_after_s is None:
            self.gone = True
        else:
            self.world.after(self.habits.returns_after_s, self._follow)

    def _follow(self) -> None:
        if not self.settled:
            self.gateway = self.world.any_gateway()
            self.gateway.follow(self)

    # -- what gateways tell

    def was_accepted(self, answer: SubmitAnswer) -> None:
        self.accepted = True
        if answer.request_id != self.request_id:
            self.spec = replace(self.spec, request_id=answer.request_id)
            self.submission = replace(self.submission, request_id=answer.request_id)

    def was_refused(self, why: str) -> None:
        self.world.tell(f"client of {self.request_id}", "is refused", why)
        self.gone = True
        self.is_alone()

    def lost_gateway(self) -> None:
        """The connection broke: follow elsewhere; or submit again, if that is safe and was not answered."""
        self.gateway = None
        self.is_alone()
        if self.settled:
            return
        if self.accepted:
            self.world.after(self.world.rng.uniform(0.1, 1.0), self._follow)
        elif self.habits.idempotent:
            self.tries += 1
            again = RequestId(f"{self.request_id}+{self.tries}")
            self.spec = replace(self.spec, request_id=again)
            self.submission = replace(self.submission, request_id=again)
            self.world.after(self.world.rng.uniform(0.1, 1.0), self._submit)
        else:
            self.gone = True

    def show(self, entry_id: str, entry: LogEntry) -> None:
        if self.world.server.losses and not self._may_go_on(entry):
            return
        self._count(entry)
        after, self.position = self.position, entry_id
        self.shown.append(entry)
        self.ended = self.ended or isinstance(entry, LogEnd)
        self.world.oracle.shown(self, after, entry_id, entry)

    def _may_go_on(self, entry: LogEntry) -> bool:
        """As a gateway asks it: a stream that has ended hears no more, and an entry that does not continue what was told ends it."""
        if isinstance(entry, LogTokens) and entry.index != self.indexes.get(entry.choice, 0):
            self.lose(Loss.SHORTENED)
        return not self.ended and self.lost is None

    def _count(self, entry: LogEntry) -> None:
        if isinstance(entry, LogTokens):
            self.indexes[entry.choice] = entry.index + len(entry.token_ids)

    def lose(self, loss: Loss) -> None:
        """The stream ends with an error that says so: what was delivered is in no log any more."""
        if not self.settled:
            self.world.tell(f"client of {self.request_id}", "has its stream ended:", loss)
            self.world.oracle.stream_lost(self, loss)
            self.lost = loss

    def is_alone(self) -> None:
        if self.alone_since is None:
            self.alone_since = self.world.now

    def is_followed(self) -> None:
        if self.alone_since is not None:
            self.longest_alone_s = max(self.longest_alone_s, self.world.now - self.alone_since)
            self.alone_since = None


class GatewayShell(Process):
    """Stateless but for its followers: any other gateway can go on where it stopped."""

    def __init__(self, world: World, gateway: GatewayId) -> None:
        super().__init__(world, gateway)
        self.gateway = gateway
        self._beats = 0
        self._clients: dict[RequestId, Client] = {}
        self._readers: dict[RequestId, Reader[LogEntry]] = {}

    def start(self) -> None:
        self._beat()
        self.every(BEAT_S, self._beat)

    def _beat(self) -> None:
        self._beats += 1
        beat = GatewayBeat(self.gateway, self._beats)
        self.write(Step.WRITE_TELL_SCHEDULER, lambda: self.world.fabric.tell_scheduler(beat))

    def kill(self) -> None:
        super().kill()
        for client in list(self._clients.values()):
            client.lost_gateway()

    # -- submission: the header, then the submit script

    def submit(self, client: Client) -> None:
        self._clients[client.request_id] = client
        head = LogHead(client.spec, "{}", "")
        create = partial(self.world.fabric.create_log, head)
        self._try(client, Step.WRITE_CREATE_LOG, create, lambda _: self._submit(client))

    def _submit(self, client: Client) -> None:
        gateway = GatewayId("") if client.submission.background else self.gateway
        submission = client.submission = replace(client.submission, gateway=gateway)
        key = str(client.spec.sampling.seed) if client.habits.idempotent else ""
        effect = partial(self.world.fabric.submit, submission, idempotency_key=key, body_digest=key)
        self._try(client, Step.WRITE_SUBMIT, effect, lambda answer: self._answered(client, answer))

    def _answered(self, client: Client, answer: SubmitAnswer) -> None:
        self.moment(Step.GATEWAY_SUBMITTED, partial(self._submitted, client, answer))

    def _submitted(self, client: Client, answer: SubmitAnswer) -> None:
        del self._clients[client.request_id]
        if answer.status not in (SubmitStatus.ACCEPTED, SubmitStatus.REPEATED):
            client.was_refused(answer.status)
            return
        repeated = answer.request_id != client.request_id
        client.was_accepted(answer)
        self._clients[client.request_id] = client
        if repeated:
            self._listen(client)
        self._read(client)

    def _try(self, client: Client, step: Step, effect: Callable[[], object], answered: Callable[..., None], tries: int = 0) -> None:
        def failed() -> None:
            if tries + 1 >= ATTEMPTS:
                self._clients.pop(client.request_id, None)
                client.was_refused("the server does not answer")
            else:
                self.after(RETRY_S, lambda: self._try(client, step, effect, answered, tries + 1))

        self.write(step, effect, answered, failed)

    # -- following

    def verify(self) -> None:
        """Of a server that came back without its last writes, every followed log is looked at."""
        self.after(VERIFY_S, self.verify)
        for client in list(self._clients.values()):
            if client.accepted and not client.settled:
                self._verify(client)

    def _verify(self, client: Client) -> None:
        fabric, request_id = self.world.fabric, client.request_id
        count, position = len(client.shown), client.position

        def judged(loss: Loss | None) -> None:
            if loss is not None and count == len(client.shown):
                client.lose(loss)

        def found(record: Record | None, entries: tuple[LoggedEntry, ...]) -> None:
            judged(loss_of(entries, count, position, record))

        # The record first, as the gateway does; nothing comes between the two here.
        self.ask(lambda: (fabric.record(request_id), fabric.read_log(request_id)), lambda answer: found(*answer))

    def follow(self, client: Client) -> None:
        """From the last entry the client was shown."""
        self._clients[client.request_id] = client
        self._listen(client)
        self._read(client)

    def _listen(self, client: Client) -> None:
        self._set_listener(client.request_id, True)

    def _read(self, client: Client) -> None:
        request_id = client.request_id
        client.is_followed()
        reader = Reader(
            self,
            lambda after: tuple((line.entry_id, line.entry) for line in self.world.fabric.read_log(request_id, after)),
            lambda entry_id, entry: self._pass_on(client, entry_id, entry),
            lambda entry: Step.MESSAGE_LOG_ENTRY,
            client.position,
            in_order=True,
        )
        self._readers[request_id] = reader
        reader.wake()

    def _pass_on(self, client: Client, entry_id: str, entry: LogEntry) -> None:
        self.moment(
            Step.GATEWAY_FOLLOWING, lambda: client.show(entry_id, entry) if self._clients.get(client.request_id) is client else None
        )

    def unfollow(self, client: Client) -> None:
        self._clients.pop(client.request_id, None)
        if reader := self._readers.pop(client.request_id, None):
            reader.close()
        self._set_listener(client.request_id, False)

    def _set_listener(self, request_id: RequestId, listening: bool) -> None:
        effect = partial(self.world.fabric.set_listener, request_id, self.gateway, listening)
        retry = partial(self.after, RETRY_S, partial(self._set_listener, request_id, listening))
        self.write(Step.WRITE_SET_LISTENER, effect, failed=retry)

    def log_grew(self, request_id: RequestId) -> None:
        if reader := self._readers.get(request_id):
            reader.wake()

    def cancel(self, request_id: RequestId) -> None:
        retry = partial(self.after, RETRY_S, partial(self.cancel, request_id))
        self.write(Step.WRITE_CANCEL, partial(self.world.fabric.cancel, request_id), failed=retry)
