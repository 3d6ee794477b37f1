"""Who still listens to a request: followers by gateway, gateways by their beats."""

from __future__ import annotations

from scheduler.alarms import Alarms
from shared.messages import GatewayBeat, ListenerChange
from shared.types import NO_GATEWAY, GatewayId, RequestId


class Listeners:
    """Requests in the background are never watched. Losing the last listener starts a grace period that any follower ends."""

    def __init__(self, liveness_s: float, grace_s: float) -> None:
        self._grace_s = grace_s
        self._silence_s = liveness_s + grace_s
        """The grace for the followers of a gateway that died runs from its last beat."""
        self._followers: dict[RequestId, set[GatewayId]] = {}
        self._followed: dict[GatewayId, set[RequestId]] = {}
        self._counters: dict[GatewayId, int] = {}
        self._grace: Alarms[RequestId] = Alarms()
        self._gateways: Alarms[GatewayId] = Alarms()

    def watch(self, request_id: RequestId, listener: GatewayId, now: float) -> None:
        """From now on this request needs a listener."""
        self._followers[request_id] = set()
        if listener == NO_GATEWAY:
            self._grace.set(request_id, now + self._grace_s)
        else:
            self._follow(request_id, listener, now)

    def change(self, event: ListenerChange, now: float) -> None:
        if event.request_id not in self._followers or event.gateway == NO_GATEWAY:
            return
        if event.listening:
            self._follow(event.request_id, event.gateway, now)
        elif event.gateway in self._followers[event.request_id]:
            self._unfollow(event.request_id, event.gateway)
            if not self._followers[event.request_id]:
                self._grace.set(event.request_id, now + self._grace_s)

    def beat(self, event: GatewayBeat, now: float) -> None:
        if event.counter > self._counters.get(event.gateway, -1):
            self._counters[event.gateway] = event.counter
            self._gateways.set(event.gateway, now + self._silence_s)

    def forget(self, request_id: RequestId) -> None:
        for gateway in list(self._followers.get(request_id, ())):
            self._unfollow(request_id, gateway)
        self._followers.pop(request_id, None)
        self._grace.clear(request_id)

    def restart(self, now: float) -> None:
        """Neither beats nor followers could reach us: full periods for all."""
        self._gateways.put_off(self._gateways, now + self._silence_s)
        self._grace.put_off(self._grace, now + self._grace_s)

    def lost(self, now: float) -> list[RequestId]:
        """Requests that nobody has listened to for too long, each named once."""
        unheard = self._grace.due(now)
        for gateway in self._gateways.due(now):
            self._counters.pop(gateway, None)
            for request_id in sorted(self._followed.get(gateway, ())):
                self._unfollow(request_id, gateway)
                if not self._followers[request_id]:
                    unheard.append(request_id)
        return unheard

    def _follow(self, request_id: RequestId, gateway: GatewayId, now: float) -> None:
        self._followers[request_id].add(gateway)
        self._followed.setdefault(gateway, set()).add(request_id)
        self._grace.clear(request_id)
        if gateway not in self._gateways:
            self._gateways.set(gateway, now + self._silence_s)

    def _unfollow(self, request_id: RequestId, gateway: GatewayId) -> None:
        self._followers[request_id].discard(gateway)
        followed = self._followed[gateway]
        followed.discard(request_id)
        if not followed:
            del self._followed[gateway]

    def check(self, live: set[RequestId]) -> None:
        assert set(self._followers) <= live, "a request that is gone is watched"
        pairs = {(r, g) for r, gateways in self._followers.items() for g in gateways}
        assert pairs == {(r, g) for g, requests in self._followed.items() for r in requests}
        for request_id, gateways in self._followers.items():
            assert not (gateways and request_id in self._grace), f"{request_id} has a listener and a grace period"
        assert all(gateway in self._gateways for gateway in self._followed), "a follower's gateway is not watched"
