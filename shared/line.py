"""Whether the waiting line has a place for one more, and when it will have one: the submit script's rules, for the model and simulators.

The line has as many places as the smallest of its bounds gives it: requests (`max_waiting`), the time until the last of them would
start, and the KV memory that they will need. Who is refused is promised the first place that is promised to nobody yet, under a
name by which the same request is known when it comes again; places that are due, or soon will be, are kept from others, for
`PROMISE_GRACE_S`. Half of the line is never kept for anybody, so that clients who do not come again cost no work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from shared.fabric import Bound

MAX_RETRY_AFTER_S = 120.0
"""Beyond, nothing is promised: who comes then takes his chance."""
PROMISE_GRACE_S = 15.0
"""How long a place that is due is kept."""
EARLY_S = 0.5
"""Who comes so much too early counts as punctual."""
SOON_TAKES = 4.0
"""A place that falls due within so many takes is kept already: it is free before its client comes, and others would take it."""
MAX_PROMISES = 10_000
APART = 1.1
"""Promised places lie so many takes apart: a little less is promised than is predicted."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the leader last published, for people and gateways."""

    waiting: int = 0
    max_waiting: int = 0
    """0: the gateways' own bound holds."""
    predicted_wait_s: float = 0.0
    takes_per_s: float = 0.0
    """Requests like those that wait which leave the line in a second while it is never empty; 0: nobody knows."""
    kv_takes_per_s: float = 0.0
    """The same, if nothing but the owners' KV memory bounded it."""
    version: int = 0
    """Of the leader's messages; 0: it did not say."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`bound` says what refused; empty: there is a place."""

    bound: Bound | None = None
    retry_after_s: float = 0.0


@dataclass(slots=True)
class Line:
    """The bounds, and who was promised a place: names, and when (seconds of the server's clock)."""

    max_waiting: int
    max_wait_s: float
    promised: dict[str, float] = field(default_factory=dict)

    def ask(self, waiting: int, load: Load, name: str, now: float) -> Verdict:
        """For one more behind `waiting`. A refusal promises a place, an acceptance keeps the promise that was made under this name."""
        self._forget(now)
        room, bound = self.room(waiting, load)
        mine = self.promised.get(name)
        punctual = mine is not None and mine <= now + EARLY_S
        soon = now + (SOON_TAKES / load.takes_per_s if load.takes_per_s > 0 else 0.0)
        if room > 0 and (punctual or room > self._promised_to_others(name, soon) or 2 * waiting < waiting + room):
            self.promised.pop(name, None)
            return Verdict()
        return Verdict(bound, self._promise(name, room, self._promised_to_others(name, now), load, now))

    def _promised_to_others(self, name: str, until: float) -> int:
        return sum(at <= until for other, at in self.promised.items() if other != name)

    def room(self, waiting: int, load: Load) -> tuple[float, Bound]:
        """Free places (negative: so many too many), and the bound that leaves the fewest. However slow, an empty line has a place."""
        rate = load.takes_per_s
        places: list[tuple[float, Bound]] = [((load.max_waiting or self.max_waiting) - waiting, Bound.WAITING)]
        if rate > 0:
            wait = max(0.0, load.predicted_wait_s + (waiting - load.waiting) / rate)
            places.append((max(1 - waiting, math.floor((self.max_wait_s - wait) * rate)), Bound.TIME))
            places.append((max(1 - waiting, math.floor(self.max_wait_s * load.kv_takes_per_s) - waiting), Bound.KV))
        elif load.predicted_wait_s > self.max_wait_s:
            places.append((0, Bound.TIME))
        return min(places, key=lambda each: each[0])

    def _forget(self, now: float) -> None:
        """Promises that were not claimed, and such as nobody makes (the clock was set back)."""
        self.promised = {name: at for name, at in self.promised.items() if now - PROMISE_GRACE_S < at <= now + MAX_RETRY_AFTER_S}

    def _promise(self, name: str, room: float, due: int, load: Load, now: float) -> float:
        """Seconds until there is a place: behind all that were promised one; but who was let down only behind those who are due."""
        rate, mine = load.takes_per_s, self.promised.get(name)
        if rate <= 0:
            return min(MAX_RETRY_AFTER_S, max(1.0, load.predicted_wait_s))
        if mine is not None and mine > now + EARLY_S:
            return max(1.0, mine - now)
        take_s = APART / rate
        at = now + (max(0.0, 1 - room) + due + 1) * take_s
        if mine is None and self.promised:
            at = max(at, max(self.promised.values()) + take_s)
        if at - now > MAX_RETRY_AFTER_S or not name or len(self.promised) >= MAX_PROMISES:
            self.promised.pop(name, None)
        else:
            self.promised[name] = at
        return min(MAX_RETRY_AFTER_S, max(1.0, at - now))
