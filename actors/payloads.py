"""How inputs travel: large ones in Ray's object store, those that come at the same time as one object. An object costs more than a
millisecond, however small it is; thirty clips of five seconds cost little more together than one."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

LARGEST_OBJECT = 16 << 20  # bytes: the first of a batch should not wait for many others


@dataclass(frozen=True)
class Stored:
    """An input in the object store: number `index` of the arrays that `reference` stands for."""

    reference: Any
    index: int


class _Waiting:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.stored: Stored | None = None


class PayloadStore:
    """While one thread puts what has come so far, more comes: the next puts all of that."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._putting = threading.Lock()

    def put(self, array: np.ndarray) -> Stored:
        """From any thread; returns once `array` is in the store."""
        mine = _Waiting(array)
        self._waiting.append(mine)
        with self._putting:
            while mine.stored is None:
                self._put_some()
        return mine.stored

    def _put_some(self) -> None:
        batch = [self._waiting.popleft()]
        size = batch[0].array.nbytes
        while self._waiting and size + self._waiting[0].array.nbytes <= LARGEST_OBJECT:
            batch.append(self._waiting.popleft())
            size += batch[-1].array.nbytes
        reference = ray.put([each.array for each in batch])
        for index, each in enumerate(batch):
            each.stored = Stored(reference, index)


def fetch(payloads: Iterable[Any]) -> list[np.ndarray | ray.exceptions.RayError]:
    """The arrays that `payloads` are or stand for, or why one can't be had. What shares an object is fetched together."""
    objects: dict[Any, Any] = {}
    found: list[np.ndarray | ray.exceptions.RayError] = []
    for payload in payloads:
        if not isinstance(payload, Stored):
            found.append(payload)
            continue
        if payload.reference not in objects:
            objects[payload.reference] = _get(payload.reference)
        there = objects[payload.reference]
        found.append(there if isinstance(there, ray.exceptions.RayError) else there[payload.index])
    return found


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error
