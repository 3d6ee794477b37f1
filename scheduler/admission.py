"""What the gateways are told, so that their submit script can refuse before anything is queued."""

from __future__ import annotations

from scheduler.events import PublishLoad
from scheduler.state import NEVER, State


class Admission:
    """Publishes the length of the line and the predicted wait: when they change, and from time to time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._last: PublishLoad | None = None
        self._published_at = NEVER

    def publish(self, now: float) -> None:
        settings = self._state.settings
        since = now - self._published_at
        if since < settings.load_interval_s:
            return
        load = PublishLoad(len(self._state.backlog), self.predicted_wait_s())
        if load != self._last or since >= settings.load_repeat_s:
            self._last, self._published_at = load, now
            self._state.out.append(load)

    def predicted_wait_s(self) -> float:
        """Seconds until a request that comes now would start: all queued prefill at the owners' profiled speed together."""
        state = self._state
        owners = [view for ref, view in state.fleet.views.items() if ref in state.fleet.roles.owners]
        speed = sum(view.speed for view in owners)
        if not len(state.backlog):
            return 0.0
        if speed <= 0:
            return state.settings.wait_without_owners_s
        queued = state.backlog.tokens + sum(max(0, view.queued_tokens) for view in owners)
        return round(queued / speed, 3)

    def republish(self) -> None:
        """The server was away: what was published may be lost."""
        self._last, self._published_at = None, NEVER
