"""What must be true of every run, whatever went wrong in it. A violation names itself and the moment it was seen.

The oracle looks from outside: at the server's state, at what clients were shown, at each core after each event. It knows the
right answer to every request beforehand, because the fake engine's next token is a function of the prefix alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NoReturn

from scheduler.moves import TOO_MANY_CRASHES
from scheduler.simulation.answer import Answer, expected_answers
from shared.fabric import FenceAnswer, Record, WriteStatus
from shared.log_check import Loss
from shared.messages import LogEnd, LogEntry, LogTokens, Report
from shared.request import TERMINAL
from shared.types import BlockId, Phase, RequestId, SamplingParams
from workers.output import Append

if TYPE_CHECKING:
    from scheduler.simulation.client import Client
    from scheduler.simulation.process import Process
    from scheduler.simulation.scheduler_shell import SchedulerShell
    from scheduler.simulation.worker_shell import WorkerShell
    from scheduler.simulation.world import World

LIVENESS_S = 3.0
GRACE_S = 10.0
REST_S = 30.0
"""After the last end every worker is at rest within this, and not because its head starts expired."""


EXPIRY_S = 75.0
"""... and this is when they would have expired."""


CHECK_EVERY = 6
"""Events of all cores between two looks into the books of the one that moved last."""


class Violation(AssertionError):
    """The system did what it must never do, or did not do what it must."""


class Oracle:
    """Hears of every event; `settled` says when nothing is left to wait for; `end` looks at what is left."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._answers: dict[RequestId, tuple[Answer, ...]] = {}
        self._owners: dict[tuple[RequestId, int], str] = {}
        self._leaders: dict[int, str] = {}
        self._progress: dict[tuple[str, RequestId, int], tuple[int, int]] = {}
        self._fences: dict[RequestId, int] = {}
        self.crashes = 0
        """Lives that ended, or seemed to: how many attempts can have ended in a crash."""
        self._quiet_since: float | None = None
        self.outcomes: Counter[str] = Counter()
        self._moves = 0
        self.cached_tokens = 0
        """That sequences found in their worker's cache."""
        self._writers_of: dict[tuple[RequestId, int], set[int]] = {}
        """The attempts that wrote tokens of each choice."""
        self._writers: dict[tuple[str, BlockId], str] = {}
        """Whose prompt each block was filled with."""
        self.losses: Counter[str] = Counter()
        """What a server in default mode took with it: streams that ended by a named error, requests that it no longer knew."""

    # -- a server that lost its last writes: what was promised under them is void, what was delivered is not

    @property
    def _is_void(self) -> bool:
        return self._world.server.losses > 0

    @property
    def _may_lose(self) -> bool:
        """Even what somebody was told."""
        return self._is_void and not self._world.schedule.scenario.waits

    def tail_lost(self) -> None:
        fabric = self._world.fabric
        self._owners.clear()
        self._fences = {name: head.fence for name in self._fences if (head := fabric.head(name)) is not None}
        self.crashes += 1
        known = {record.request_id for record in fabric.all_records()}
        unknown = [client.request_id for client in self._world.clients if client.accepted and client.request_id not in known]
        self._must(not unknown or self._may_lose, f"the server lost requests that it had accepted: {unknown}")
        self.losses["requests unknown"] += len(unknown)

    def stream_lost(self, client: Client, loss: Loss) -> None:
        """Only of a log that no longer says what was shown."""
        self._must(self._may_lose, f"{client.request_id}: its stream was ended by {loss}, and the server had lost nothing of it")
        self.losses[f"streams ended by {loss}"] += 1

    # -- after every event

    def worker_moved(self, shell: WorkerShell) -> None:
        self._check_now_and_then(shell)
        if self._world.schedule.scenario.tenants > 1:
            self._tenants_apart(shell)

    def _tenants_apart(self, shell: WorkerShell) -> None:
        """What a sequence reads as computed was written for its tenant: seen from the tables alone, while it is filled and ever after."""
        for sequence in shell.core.sequences:
            salt = sequence.spec.salt
            for at, number in enumerate(sequence.blocks):
                writer = self._writers.setdefault((shell.name, number), salt) if at < sequence.num_sealed else salt
                if writer != salt:
                    self._fail(f"{shell.name}: {sequence!r} of {salt!r} reads block {number}, written for {writer!r}")
                self._writers[shell.name, number] = salt

    def scheduler_moved(self, shell: SchedulerShell) -> None:
        self._check_now_and_then(shell)

    def _check_now_and_then(self, shell: WorkerShell | SchedulerShell) -> None:
        """The books, at every few events: what is wrong in them stays wrong, and looking costs more than the event."""
        self._moves += 1
        if self._moves % CHECK_EVERY == 0:
            self._check(f"{shell.name} check()", shell.core.check)

    def killed(self, process: Process) -> None:
        self.crashes += 1

    def stalled(self, process: Process, seconds: float) -> None:
        self.crashes += 1

    def worker_left(self, shell: WorkerShell) -> None:
        self._must(_idle(shell), f"{shell.name} left in good order and still held something: {shell.core!r}")

    def reported(self, shell: WorkerShell, report: Report) -> None:
        """Progress is one number: it never passes what is known, and only preemption takes it back."""
        for own in report.owned:
            key = (shell.name, own.request_id, own.attempt)
            tokens, computed = self._progress.get(key, (0, 0))
            if not (0 <= own.num_computed <= own.num_tokens):
                self._fail(f"{shell.name} has computed more than there is: {own}")
            if own.num_tokens < tokens:
                self._fail(f"{shell.name} forgot tokens: {tokens} before {own}")
            if own.num_computed < computed:
                self._fail(f"{shell.name} fell back from {computed} to {own}, and was not preempted")
            self._progress[key] = (own.num_tokens, own.num_computed)

    def preempted(self, shell: WorkerShell, request_id: RequestId) -> None:
        for key in [key for key in self._progress if key[:2] == (shell.name, request_id)]:
            self._progress[key] = (self._progress[key][0], 0)

    def opened(self, shell: WorkerShell, request_id: RequestId, attempt: int) -> None:
        """An attempt belongs to one incarnation: two that write under it would both be believed."""
        owner = self._owners.setdefault((request_id, attempt), shell.name)
        self._must(owner == shell.name, f"attempt {attempt} of {request_id} is owned by {owner} and by {shell.name}")

    def elected(self, shell: SchedulerShell, epoch: int) -> None:
        """An epoch has one leader."""
        leader = self._leaders.setdefault(epoch, shell.name)
        self._must(leader == shell.name, f"epoch {epoch} is led by {leader} and by {shell.name}")

    def fence_raised(self, request_id: RequestId, answer: FenceAnswer, fence: int) -> None:
        if answer.status is WriteStatus.DONE:
            self._fences[request_id] = max(fence, self._fences.get(request_id, 1))

    def appended(self, who: Process, append: Append, status: WriteStatus) -> None:
        """Whoever is below the fence writes nothing more, be it right or wrong."""
        request_id, attempt, tokens, _ = append
        refused = status is not WriteStatus.DONE
        fence = self._fences.get(request_id, 1)
        if not refused and attempt < fence:
            self._fail(f"{who.name} wrote to {request_id} under attempt {attempt}, below its fence {fence}")
        if status is WriteStatus.GAP and not self._is_void:
            self._fail(f"{who.name} left a gap in {request_id}, of which it is the lawful owner: {append}")
        for entry in tokens if status is WriteStatus.DONE else ():
            self._writers_of.setdefault((request_id, entry.choice), set()).add(attempt)

    def shown(self, client: Client, after: str, entry_id: str, entry: LogEntry) -> None:
        """Nothing is shown that is not in the log, as it is in the log, and in its order."""
        if self._may_lose:
            return  # What was under way from before the loss is shown; the end is judged.
        logged = self._world.fabric.read_log(client.request_id, after, 1)
        if not logged:
            self._fail(f"{client.request_id} was shown what is not in its log: {entry}")
        if logged[0].entry != entry:
            self._fail(f"{client.request_id} was shown {entry} where its log has {logged[0].entry}")
        if logged[0].entry_id != entry_id:
            self._fail(f"{client.request_id}: entry {entry_id} is not the one after the last")

    # -- the end

    def settled(self) -> bool:
        """Nothing is left to wait for: every client and record has its end, and every worker is idle or has had its time to be."""
        if not self._all_ended():
            self._quiet_since = None
            return False
        restless = [shell for shell in self._world.workers if shell.alive and not _idle(shell)]
        if self._quiet_since is None or any(shell.is_stalled for shell in self._world.processes()):
            self._quiet_since = self._world.now
        limit = EXPIRY_S if all(map(self._is_replaced, restless)) else REST_S
        return not restless or self._world.now - self._quiet_since >= limit

    def _is_replaced(self, shell: WorkerShell) -> bool:
        """A newer incarnation of it lives: nobody speaks to it any more, so its head starts end by their own expiry."""
        return any(other.ref.worker == shell.ref.worker for other in self._world.workers[self._world.workers.index(shell) + 1 :])

    def _all_ended(self) -> bool:
        clients, records = self._world.clients, self._world.fabric.all_records()
        return all(client.settled for client in clients) and all(record.phase in TERMINAL for record in records)

    def end(self) -> None:
        for record in self._world.fabric.all_records():
            self._ended_well(record)
        self._must(not self._world.fabric.read_submissions("0-0"), "a closed request is still in the submit stream")
        for client in self._world.clients:
            self._client_ended_well(client)
            if self._may_lose:
                self._not_contradicted(client)
        for shell in self._world.workers:
            if shell.alive:
                self._check(f"{shell.name} check()", shell.core.check)
                self._must(_idle(shell), f"{shell.name} never came to rest: {shell.core!r}")
                self._check(f"{shell.name} arena", lambda shell=shell: shell.transport.check(idle=True))

    def _ended_well(self, record: Record) -> None:
        request_id = record.request_id
        entries = [line.entry for line in self._world.fabric.read_log(request_id)]
        self._must(record.phase in TERMINAL, f"{request_id} is stuck: {record}")
        if self._may_lose and self._world.fabric.head(request_id) is None:
            self._must(record.phase is not Phase.FINISHED, f"{request_id} has no log and is said to be finished")
            self.losses["requests that failed, their prompt lost"] += 1
            return
        ends = [entry for entry in entries if isinstance(entry, LogEnd)]
        self._must(len(ends) == 1 and entries[-1] is ends[0], f"{request_id}: its log must have one end, at the end: {entries}")
        self._must(ends[0].phase is record.phase, f"{request_id}: its log ended {ends[0]}, its record {record.phase}")
        self._tokens_right(request_id, [entry for entry in entries if isinstance(entry, LogTokens)], ends[0])
        self._end_justified(record, ends[0])
        self._letter_kept(request_id, ends[0])
        self.outcomes[f"{ends[0].phase} {ends[0].code}".strip()] += 1

    def _tokens_right(self, request_id: RequestId, entries: list[LogTokens], end: LogEnd) -> None:
        """Of each choice, and of no other."""
        answers = self._expected(request_id)
        choices: list[list[LogTokens]] = [[] for _ in answers]
        for entry in entries:
            self._must(entry.choice < len(answers), f"{request_id}: an entry of choice {entry.choice} where {len(answers)} were asked for")
            choices[entry.choice].append(entry)
        for choice, answer in enumerate(answers):
            self._choice_right(f"{request_id}/{choice}", answer, choices[choice], end)

    def _choice_right(self, request_id: str, answer: Answer, entries: list[LogTokens], end: LogEnd) -> None:
        """Indexes complete, in order, once, nothing behind its finish; ids and text those of the reference."""
        ids: list[int] = []
        for at, entry in enumerate(entries):
            if entry.index != len(ids):
                self._fail(f"{request_id}: entry at index {entry.index} after {len(ids)} tokens")
            if entry.finish and at != len(entries) - 1:
                self._fail(f"{request_id}: goes on behind its finish: {entries[at:]}")
            ids.extend(entry.token_ids)
        self._logprobs_right(request_id, answer, entries)
        text = "".join(entry.text for entry in entries)
        self._must(tuple(ids) == answer.token_ids[: len(ids)], f"{request_id}: wrong tokens {ids}, right are {answer.token_ids}")
        self._must(answer.text.startswith(text), f"{request_id}: wrong text {text!r}, right is {answer.text!r}")
        if end.phase is Phase.FINISHED:
            self._must(tuple(ids) == answer.token_ids, f"{request_id}: finished after {len(ids)} of {len(answer.token_ids)} tokens")
            self._must(text == answer.text, f"{request_id}: finished with {text!r}, right is {answer.text!r}")
            self._must(entries[-1].finish is answer.finish, f"{request_id}: finish {entries[-1].finish}, right is {answer.finish}")

    def _logprobs_right(self, request_id: str, answer: Answer, entries: list[LogTokens]) -> None:
        """Each token's own, whoever computed it; a step that computed it again computed the same."""
        logprobs = tuple(logprob for entry in entries for logprob in entry.logprobs)
        likeliest = tuple(top for entry in entries for top in entry.top_logprobs)
        self._must(logprobs == answer.logprobs[: len(logprobs)], f"{request_id}: wrong logprobs {logprobs}, right are {answer.logprobs}")
        self._must(likeliest == answer.top_logprobs[: len(likeliest)], f"{request_id}: wrong alternatives {likeliest}")
        self._must(len(logprobs) == sum(len(entry.token_ids) for entry in entries), f"{request_id}: {len(logprobs)} logprobs")

    def continued(self) -> Counter[str]:
        """Choices that went on in mid-stream under another attempt, by what they asked for."""
        found: Counter[str] = Counter()
        for (request_id, _), attempts in self._writers_of.items():
            head = self._world.fabric.head(request_id)
            if head is not None and len(attempts) > 1:
                found.update(_features(head.spec.sampling))
        return found

    def _expected(self, request_id: RequestId) -> tuple[Answer, ...]:
        if request_id not in self._answers:
            head = self._world.fabric.head(request_id)
            self._must(head is not None, f"{request_id} has a record and no log")
            assert head is not None
            self._answers[request_id] = expected_answers(head.spec)
        return self._answers[request_id]

    def _end_justified(self, record: Record, end: LogEnd) -> None:
        if end.phase is Phase.CANCELLED:
            self._must(self._may_be_cancelled(record), f"{record.request_id} was cancelled and nobody asked for it: {end}")
        elif end.phase is Phase.FAILED:
            enough = self._world.schedule.scenario.max_crashes
            reasons = {"timeout": record.submission.timeout_s > 0, TOO_MANY_CRASHES: self.crashes >= enough}
            self._must(reasons.get(end.code, False), f"{record.request_id} failed without a reason that the schedule gives: {end}")

    def _letter_kept(self, request_id: RequestId, end: LogEnd) -> None:
        """One for what crashes ended, whoever closed it, and none for anything else."""
        letters = sum(letter.request_id == request_id for letter in self._world.fabric.dead_letters())
        self._must(letters == (end.code == TOO_MANY_CRASHES), f"{request_id} has {letters} dead letters: {end}")

    def _may_be_cancelled(self, record: Record) -> bool:
        client = next((client for client in self._world.clients if client.request_id == record.request_id), None)
        # A server may lose that it was asked; a worker that was told before does not forget it.
        if record.cancel_asked or (client is not None and client.cancel_asked and self._may_lose):
            return True
        if record.submission.background:
            return False
        if client is None or not client.accepted or client.gone:
            return True
        client.is_followed()
        return client.longest_alone_s >= GRACE_S or self._listener_news_was_lost()

    def _listener_news_was_lost(self) -> bool:
        """The scheduler was not told, or too late, that somebody follows: then it may take a client for gone."""
        words = ("GatewayBeat", "ListenerChange", "set_listener", "tell_scheduler", "gateway", "server", "submit", "scheduler", "lead")
        return any(any(word in step.value for word in words) for step, _ in self._world.plan.hit)

    def _client_ended_well(self, client: Client) -> None:
        self._must(client.settled, f"the client of {client.request_id} waits for ever: accepted {client.accepted}, shown {client.shown}")
        if client.cancel_asked or client.gone or client.lost:
            return
        self._must(client.accepted, f"{client.request_id} was never answered")

    def _not_contradicted(self, client: Client) -> None:
        """Whatever became of the log: what was shown is of the right answer, complete from its start and in order."""
        finished = any(isinstance(entry, LogEnd) and entry.phase is Phase.FINISHED for entry in client.shown)
        for choice, answer in enumerate(expected_answers(client.spec)):
            shown = [entry for entry in client.shown if isinstance(entry, LogTokens) and entry.choice == choice]
            ids = tuple(token for entry in shown for token in entry.token_ids)
            right = answer.token_ids if finished else answer.token_ids[: len(ids)]
            self._must(ids == right, f"{client.request_id}/{choice}: shown {ids}, right is {answer.token_ids}")
            text = "".join(entry.text for entry in shown)
            self._must(answer.text.startswith(text), f"{client.request_id}/{choice}: shown {text!r}, right is {answer.text!r}")

    # -- words

    def _check(self, what: str, check: object) -> None:
        try:
            check()  # type: ignore[operator]
        except AssertionError as error:
            raise Violation(f"at {self._world.now:.4f}: {what}: {error}") from error

    def _must(self, holds: bool, otherwise: str) -> None:
        """Where it is asked often, `if` and `_fail`: the words cost more than the question."""
        if not holds:
            self._fail(otherwise)

    def _fail(self, why: str) -> NoReturn:
        raise Violation(f"at {self._world.now:.4f}: {why}")


def _features(sampling: SamplingParams) -> list[str]:
    asked = {
        "greedy": sampling.temperature == 0,
        "seeded": sampling.temperature > 0,
        "n > 1": sampling.n > 1,
        "logprobs": sampling.top_logprobs > 0,
        "stop strings": bool(sampling.stop),
        "penalties": sampling.frequency_penalty != 0,
    }
    return [name for name, wanted in asked.items() if wanted]


def _idle(shell: WorkerShell) -> bool:
    """Holds nothing: no request, no head start, no transfer, all blocks free."""
    return shell.core.idle
