"""A set that is always in order: the backlog's line and the queue of free workers."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=tuple[Any, ...])

BUCKET = 512


class Ordered(Generic[K]):
    """Distinct sortable keys in buckets of at most `2 * BUCKET`: any change costs O(sqrt n) at worst, the first key O(1).

    A heap would give the first key only; policies look at the first few, and ask for the first beyond a key.
    """

    def __init__(self) -> None:
        self._buckets: list[list[K]] = []
        self._lasts: list[K] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[K]:
        for bucket in self._buckets:
            yield from bucket

    def __contains__(self, key: K) -> bool:
        at, inside = self._find(key)
        return at < len(self._buckets) and self._buckets[at][inside] == key

    def _find(self, key: K) -> tuple[int, int]:
        """The bucket and the place in it where this key is, or would be; one bucket too far if it is beyond the last."""
        at = bisect_left(self._lasts, key)
        return at, bisect_left(self._buckets[at], key) if at < len(self._buckets) else 0

    def add(self, key: K) -> None:
        if not self._buckets:
            self._buckets, self._lasts = [[]], [key]
        at = min(bisect_left(self._lasts, key), len(self._buckets) - 1)
        bucket = self._buckets[at]
        insort(bucket, key)
        self._lasts[at] = bucket[-1]
        self._size += 1
        if len(bucket) > 2 * BUCKET:
            self._split(at)

    def _split(self, at: int) -> None:
        bucket = self._buckets[at]
        self._buckets[at : at + 1] = [bucket[:BUCKET], bucket[BUCKET:]]
        self._lasts[at : at + 1] = [bucket[BUCKET - 1], bucket[-1]]

    def remove(self, key: K) -> None:
        """Raises `KeyError` if it is not there."""
        at, inside = self._find(key)
        if at == len(self._buckets) or self._buckets[at][inside] != key:
            raise KeyError(key)
        bucket = self._buckets[at]
        del bucket[inside]
        self._size -= 1
        if bucket:
            self._lasts[at] = bucket[-1]
        else:
            del self._buckets[at], self._lasts[at]

    def at(self, index: int) -> K | None:
        """The key at this place in the order, None beyond the end."""
        for bucket in self._buckets:
            if index < len(bucket):
                return bucket[index]
            index -= len(bucket)
        return None

    def before(self, key: K) -> int:
        """How many keys come before this one."""
        at, inside = self._find(key)
        return sum(map(len, self._buckets[:at])) + inside

    def since(self, key: K) -> Iterator[K]:
        """Keys from `key` on, in order."""
        return self._from(*self._find(key))

    def since_place(self, index: int) -> Iterator[K]:
        """Keys from this place of the order on."""
        for at, bucket in enumerate(self._buckets):
            if index < len(bucket):
                return self._from(at, index)
            index -= len(bucket)
        return iter(())

    def _from(self, at: int, inside: int) -> Iterator[K]:
        if at == len(self._buckets):
            return iter(())
        return chain(islice(self._buckets[at], inside, None), chain.from_iterable(islice(self._buckets, at + 1, None)))
