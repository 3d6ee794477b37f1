"""More than a cluster can do, for a while: clients that are refused and come again when `Retry-After` says so.

The door is the submit script's rules (`shared.line`), judged by what the simulated leader publishes. Every answer with `Retry-After` is
judged afterwards. It was **right** if the client that came back then was accepted, and if it was not more than twice too long: at most
twice the time in which the cluster really took as many requests as stood between this one and a place, those who were promised one before
it included (a second is forgiven, for the header counts whole ones).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import partial
from random import Random

from scheduler.events import PublishLoad
from scheduler.simulation.serving.world import Serving, ServingWorld
from shared.line import Line, Load
from shared.messages import Assign
from shared.types import RequestId, WorkerRef

ROUNDING_S = 1.0


@dataclass(frozen=True, slots=True)
class Habits:
    """Of all clients."""

    retries: bool = True
    jitter: float = 0.1
    """They come back up to this share of `Retry-After` later than it says."""
    gives_up_after: int = 20


@dataclass(slots=True)
class Refusal:
    """One answer with `Retry-After`."""

    at: float
    told_s: float
    ahead: int
    """Requests that had to be taken before it had a place."""
    kept: bool | None = None
    """Whether the client that came back was accepted; None: it has not come back."""


@dataclass(slots=True)
class Crowd:
    """What became of them."""

    refusals: list[Refusal] = field(default_factory=list)
    gave_up: int = 0
    most_waiting: int = 0
    most_promised: int = 0
    most_held_tokens: int = 0
    """Prompts and outputs of accepted requests that had not ended: what the message server keeps."""
    taken_at: list[float] = field(default_factory=list)
    """When a request left the line."""

    def turn_s(self, refusal: Refusal) -> float:
        """Seconds from the refusal until its turn had come."""
        turn = bisect_right(self.taken_at, refusal.at) + refusal.ahead - 1
        return self.taken_at[turn] - refusal.at if turn < len(self.taken_at) else math.inf

    def is_right(self, refusal: Refusal) -> bool:
        return bool(refusal.kept) and refusal.told_s <= 2 * self.turn_s(refusal) + ROUNDING_S

    @property
    def right(self) -> float:
        """Share of the answers that were right, of those whose client came back."""
        judged = [refusal for refusal in self.refusals if refusal.kept is not None]
        return sum(map(self.is_right, judged)) / max(1, len(judged))


class OverloadWorld(ServingWorld):
    """`run` it, then ask `crowd`."""

    def __init__(self, serving: Serving, line: Line, habits: Habits | None = None) -> None:
        super().__init__(serving)
        self.line, self.habits, self.crowd = line, habits or Habits(), Crowd()
        self.load = Load()
        self._rng = Random(serving.seed + 1)
        self._waiting: set[RequestId] = set()
        self._held_tokens = 0
        self.length: list[tuple[float, int]] = []
        """Of the line, whenever it changed."""
        self.accepted_at: dict[RequestId, float] = {}

    def _arrive(self, number: int) -> None:
        self._try(number, None, self.habits.gives_up_after)

    def _try(self, number: int, refused: Refusal | None, tries: int) -> None:
        now = self.agenda.now
        ahead = self._ahead(number, now)
        verdict = self.line.ask(len(self._waiting), self.load, str(number), now)
        self.crowd.most_promised = max(self.crowd.most_promised, len(self.line.promised))
        if refused is not None:
            refused.kept = verdict.bound is None
        if verdict.bound is None:
            self._accept(number)
        else:
            self._refuse(number, Refusal(now, math.ceil(verdict.retry_after_s), ahead), tries - 1)

    def _ahead(self, number: int, now: float) -> int:
        room, _ = self.line.room(len(self._waiting), self.load)
        mine = self.line.promised.get(str(number))
        limit = now if mine is not None and mine <= now else math.inf if mine is None else mine
        promised = sum(at < limit for name, at in self.line.promised.items() if name != str(number))
        return max(1, 1 - int(room) + promised)

    def _accept(self, number: int) -> None:
        arrival = self.requests[number].arrival
        self._waiting.add(RequestId(str(number)))
        self.accepted_at[RequestId(str(number))] = self.agenda.now
        self._held_tokens += arrival.prompt_tokens + arrival.output_tokens
        self.crowd.most_waiting = max(self.crowd.most_waiting, len(self._waiting))
        self.crowd.most_held_tokens = max(self.crowd.most_held_tokens, self._held_tokens)
        super()._arrive(number)
        self._note()

    def _refuse(self, number: int, refusal: Refusal, tries: int) -> None:
        self.crowd.refusals.append(refusal)
        if not self.habits.retries or not tries:
            self.crowd.gave_up += 1
            self._left -= 1
            return
        later = refusal.told_s * (1 + self.habits.jitter * self._rng.random())
        self.agenda.after(later, partial(self._try, number, refusal, tries))

    def _note(self) -> None:
        self.length.append((self.agenda.now, len(self._waiting)))

    # -- what nodes tell

    def load_published(self, load: PublishLoad) -> None:
        self.agenda.after(self.plan.message_s, partial(self._hear, load))

    def _hear(self, load: PublishLoad) -> None:
        self.load = Load(load.waiting, 0, load.predicted_wait_s, load.takes_per_s, load.kv_takes_per_s)
        self._note()

    def assigned(self, job: Assign, worker: WorkerRef) -> None:
        super().assigned(job, worker)
        self._waiting.discard(job.request_id)
        self.crowd.taken_at.append(self.agenda.now)
        self._note()

    def ended(self, request_id: RequestId) -> None:
        super().ended(request_id)
        arrival = self.requests[int(request_id)].arrival
        self._held_tokens -= arrival.prompt_tokens + arrival.output_tokens
