"""The waiting requests, in order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from scheduler.ordered import Ordered
from scheduler.requests import LiveRequest
from shared.types import RequestId

Key = tuple[int, float, int]


class Backlog:
    """Ordered by (priority, deadline, arrival); a second order holds those without a head start.

    A request that no member could hold is shelved, so that it does not stand before those that can be served.
    """

    def __init__(self, look_ahead: int) -> None:
        self._look_ahead = look_ahead
        self._line: Ordered[Key] = Ordered()
        self._bare: Ordered[Key] = Ordered()
        self._by_key: dict[Key, LiveRequest] = {}
        self._by_id: dict[RequestId, LiveRequest] = {}
        self._shelf: dict[RequestId, LiveRequest] = {}
        self._newcomers: list[LiveRequest] = []
        self.tokens = 0
        """Of all waiting requests, the shelf included."""
        self.front = 0
        """Grows with every change among the first `look_ahead`: an owner that took none of them need not be asked again before."""

    def __len__(self) -> int:
        return len(self._line) + len(self._shelf)

    def __contains__(self, request: LiveRequest) -> bool:
        return self._by_id.get(request.request_id) is request or self._shelf.get(request.request_id) is request

    @property
    def line_length(self) -> int:
        return len(self._by_id)

    @property
    def bare_length(self) -> int:
        return len(self._bare)

    def add(self, request: LiveRequest) -> None:
        self._by_key[request.key] = request
        self._by_id[request.request_id] = request
        self._line.add(request.key)
        self._touch(request.key)
        if request.head_start is None:
            self._bare.add(request.key)
        self.tokens += request.num_tokens
        self._newcomers.append(request)

    def newcomers(self) -> list[LiveRequest]:
        """Who joined the line since the last call, and is still in it."""
        if not (new := self._newcomers):
            return []
        self._newcomers = []
        return [request for request in new if self._by_id.get(request.request_id) is request]

    def remove(self, request: LiveRequest) -> None:
        self.tokens -= request.num_tokens
        if not self._shelf or self._shelf.pop(request.request_id, None) is None:
            self._take_out(request)

    def look_again(self, request: LiveRequest) -> None:
        """An owner that left it to a low-end may want it now."""
        if self._by_id.get(request.request_id) is request:
            self._touch(request.key)

    def _touch(self, key: Key) -> None:
        last = self._line.at(self._look_ahead - 1)
        if last is None or key <= last:
            self.front += 1

    def _take_out(self, request: LiveRequest) -> None:
        key = request.key
        self._touch(key)
        self._line.remove(key)
        if request.head_start is None:
            self._bare.remove(key)
        del self._by_key[key], self._by_id[request.request_id]

    def give_head_start(self, request: LiveRequest, present: bool) -> None:
        """Its head start appears or vanishes; called before `request.head_start` changes."""
        if self._by_id.get(request.request_id) is not request or (request.head_start is not None) == present:
            return
        if present:
            self._bare.remove(request.key)
        else:
            self._bare.add(request.key)
            self._touch(request.key)

    def shelve_misfits(self, largest: int) -> list[LiveRequest]:
        """Sets aside requests in front that need more than `largest` tokens in one place."""
        shelved: list[LiveRequest] = []
        while (head := self.head()) is not None and head.num_tokens >= largest:
            self._take_out(head)
            self._shelf[head.request_id] = head
            shelved.append(head)
        return shelved

    def unshelve(self, largest: int) -> None:
        """A larger worker came."""
        for request in [r for r in self._shelf.values() if r.num_tokens < largest]:
            del self._shelf[request.request_id]
            self.tokens -= request.num_tokens
            self.add(request)

    def head(self) -> LiveRequest | None:
        key = self._line.at(0)
        return None if key is None else self._by_key[key]

    # -- what policies see: `scheduler.view.WaitingLine`

    def first(self, count: int, skip: int = 0) -> Iterator[LiveRequest]:
        return self._requests(islice(self._line.since_place(skip), max(0, count - skip)))

    def without_head_start(self, skip: int = 0) -> Iterator[LiveRequest]:
        start = self._line.at(skip)
        return iter(()) if start is None else self._requests(self._bare.since(start))

    def _requests(self, keys: Iterator[Key]) -> Iterator[LiveRequest]:
        return map(self._by_key.__getitem__, keys)

    def get(self, request_id: RequestId) -> LiveRequest | None:
        return self._by_id.get(request_id)

    def place(self, request_id: RequestId) -> int:
        return self._line.before(self._by_id[request_id].key)

    @property
    def mean_tokens(self) -> float:
        return self.tokens / max(1, len(self))

    def check(self) -> None:
        assert set(self._line) == set(self._by_key)
        assert {r.request_id for r in self._by_key.values()} == set(self._by_id)
        assert not set(self._by_id) & set(self._shelf)
        assert set(self._bare) == {key for key, r in self._by_key.items() if r.head_start is None}
        assert self.tokens == sum(r.num_tokens for r in [*self._by_id.values(), *self._shelf.values()])

    def __repr__(self) -> str:
        return f"<Backlog {len(self._line)} waiting | {len(self._bare)} without head start | {len(self._shelf)} shelved>"
