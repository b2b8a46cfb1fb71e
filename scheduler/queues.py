"""A priority queue that any entry can leave."""

import heapq
from typing import Generic, TypeVar

K = TypeVar("K", bound=tuple)
V = TypeVar("V")

SLACK = 16  # stale keys that the heap may hold beyond one for each entry


class OpenQueue(Generic[K, V]):
    """Values by key, smallest key first.

    A value that leaves is let go at once. Its key stays in the heap until it comes to
    the front, or until half of the keys are stale. So every operation costs O(log n) on
    average, and memory follows what is in the queue, not what once was.
    """

    def __init__(self) -> None:
        self._heap: list[K] = []
        self._values: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._values)

    def push(self, key: K, value: V) -> None:
        """Adds an entry; `key` is not in the queue."""
        self._values[key] = value
        heapq.heappush(self._heap, key)

    def first(self) -> V | None:
        """The value of the smallest key, which stays; None if the queue is empty."""
        while self._heap and self._heap[0] not in self._values:
            heapq.heappop(self._heap)
        return self._values[self._heap[0]] if self._heap else None

    def discard(self, key: K) -> None:
        """Removes the entry of `key`, if there is one."""
        if key not in self._values:
            return
        del self._values[key]
        if len(self._heap) > 2 * len(self._values) + SLACK:
            self._heap = list(self._values)
            heapq.heapify(self._heap)
