"""A priority queue that any entry can leave."""

import heapq
from typing import Generic, TypeVar

K = TypeVar("K", bound=tuple)
V = TypeVar("V")

SLACK = 16  # keys of entries that have left, beside one for each that is there


class OpenQueue(Generic[K, V]):
    """Values by key, smallest key first. A value that leaves is let go at once. Its key stays in the
    heap until it comes to the front or half of the keys are such: so every operation costs O(log n)
    on average, and memory follows what is in the queue, not what once was."""

    def __init__(self) -> None:
        self._heap: list[K] = []
        self._values: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._values)

    def push(self, key: K, value: V) -> None:
        self._values[key] = value
        heapq.heappush(self._heap, key)

    def first(self) -> V | None:
        while self._heap and self._heap[0] not in self._values:
            heapq.heappop(self._heap)
        return self._values[self._heap[0]] if self._heap else None

    def discard(self, key: K) -> None:
        """Takes the entry out, if it is there."""
        self._values.pop(key, None)
        if len(self._heap) > 2 * len(self._values) + SLACK:
            self._heap = list(self._values)
            heapq.heapify(self._heap)
