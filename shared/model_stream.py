"""A stream of the fabric in memory: ids as a server gives them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shared.entry_ids import START, order

M = TypeVar("M")
EntryId = tuple[int, int]


@dataclass
class Stream(Generic[M]):
    """Entries in order under `<wall ms>-<number>`, as a server names them: ids grow even after a lost tail."""

    ids: list[EntryId] = field(default_factory=list)
    items: list[M] = field(default_factory=list)
    last: EntryId = (0, 0)
    """Of the newest entry there ever was: ids grow although entries go and clocks step back."""

    def add(self, item: M, wall_ms: int) -> EntryId:
        self.last = (wall_ms, 0) if wall_ms > self.last[0] else (self.last[0], self.last[1] + 1)
        self.ids.append(self.last)
        self.items.append(item)
        return self.last

    def copy(self) -> Stream[M]:
        return Stream(self.ids.copy(), self.items.copy(), self.last)

    def read(self, after: str, count: int) -> tuple[tuple[str, M], ...]:
        first = bisect_right(self.ids, order(after))
        pairs = zip(self.ids[first : first + count], self.items[first : first + count], strict=True)
        return tuple((f"{ms}-{number}", item) for (ms, number), item in pairs)

    @property
    def newest(self) -> str:
        return "{}-{}".format(*self.ids[-1]) if self.ids else START

    def remove(self, entry_id: EntryId) -> None:
        at = bisect_right(self.ids, entry_id) - 1
        if at >= 0 and self.ids[at] == entry_id:
            del self.ids[at], self.items[at]

    def clear(self) -> None:
        self.ids.clear()
        self.items.clear()
