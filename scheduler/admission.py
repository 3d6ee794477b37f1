"""What the gateways are told, so that their submit script can refuse before anything is queued."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from scheduler.events import PublishLoad
from scheduler.observed import ObservedPace
from scheduler.state import NEVER, State
from scheduler.turnover import Ask, Owner, Turnover, turnover

SAMPLE = 16
"""Waiting requests whose expected outputs stand for all."""


class Admission:
    """Publishes the length of the line, how fast it moves and how long it takes: when they change, and from time to time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._last: PublishLoad | None = None
        self._published_at = NEVER
        self._observed = ObservedPace()
        self._modelled = Turnover()
        self._modelled_at = NEVER
        self._output = 0.0

    def publish(self, now: float) -> None:
        if not len(self._state.backlog):
            self._observed.interrupted()
        settings = self._state.settings
        since = now - self._published_at
        if since < settings.load_interval_s:
            return
        load = self._load(now)
        if load != self._last or since >= settings.load_repeat_s:
            self._last, self._published_at = load, now
            self._state.out.append(load)

    def _load(self, now: float) -> PublishLoad:
        """The wait is that of a request which comes now: until all before it have left the line."""
        state, waiting = self._state, len(self._state.backlog)
        if not waiting:
            return PublishLoad(0, 0.0, *self._rates())
        self._model(now)
        if not self._modelled.takes_per_s:
            return PublishLoad(waiting, state.settings.wait_without_owners_s)
        self._observed.look(now, state.takes, len(state.requests) - waiting, self._modelled.takes_per_s)
        takes, kv_takes = self._rates()
        return PublishLoad(waiting, round(waiting / takes, 3), takes, kv_takes)

    def _rates(self) -> tuple[float, float]:
        """Takes a second, and those that KV memory alone would allow: modelled, corrected by what was observed."""
        factor = self._observed.factor
        return round(factor * self._modelled.takes_per_s, 6), round(factor * self._modelled.kv_takes_per_s, 6)

    def _model(self, now: float) -> None:
        """Once in `load_repeat_s`: it looks at every worker."""
        if now - self._modelled_at < self._state.settings.load_repeat_s and self._modelled.takes_per_s:
            return
        owners, helpers, ask = self._owners(), self._helpers_tokens_per_s(), self._ask()
        self._modelled, self._modelled_at = turnover(owners, helpers, ask), now
        if self._output and self._output != ask.output and self._modelled.takes_per_s:
            # What outputs are expected is learned as well: news of that is no news of the pace.
            before = turnover(owners, helpers, replace(ask, output=self._output))
            self._observed.restate(self._modelled.takes_per_s / before.takes_per_s)
        self._output = ask.output

    def _owners(self) -> list[Owner]:
        fleet = self._state.fleet
        workers = [fleet.get(ref) for ref in fleet.roles.owners]
        infos = [(worker.profile, worker.info) for worker in workers if worker is not None]
        return [
            Owner(profile, info.token_budget, info.max_sequences, info.total_blocks * info.block_tokens)
            for profile, info in infos
            if profile is not None and info is not None
        ]

    def _helpers_tokens_per_s(self) -> float:
        fleet = self._state.fleet
        return sum(fleet.views[ref].speed for ref in fleet.roles.assistants if ref in fleet.views)

    def _ask(self) -> Ask:
        """The mean of those that wait; of their outputs, that of the first few."""
        backlog = self._state.backlog
        first = list(backlog.first(SAMPLE))
        if not first:
            return Ask(backlog.mean_tokens, 1.0)
        output = fmean(waiting.mean_output or waiting.expected_output for waiting in first)
        return Ask(backlog.mean_tokens, max(1.0, output), fmean(waiting.num_choices for waiting in first))

    def republish(self) -> None:
        """The server was away: what was published may be lost."""
        self._last, self._published_at = None, NEVER
        self._observed.interrupted()
