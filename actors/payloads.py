"""How inputs travel: large ones in Ray's object store, those that come at the same time as one object. An object costs more than a
millisecond, however small it is; thirty clips of five seconds cost little more together than one."""

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
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


class PayloadStore:
    """While one thread puts what has come so far, more comes: the next puts all of that."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[np.ndarray, Future[Stored]]] = deque()
        self._putting = threading.Lock()

    def put(self, array: np.ndarray) -> Stored:
        """From any thread; returns once `array` is in the store. Raises what Ray raises for the object that it was to be part of."""
        stored: Future[Stored] = Future()
        self._waiting.append((array, stored))
        with self._putting:
            while not stored.done():
                self._put_some()
        return stored.result()

    def _put_some(self) -> None:
        batch = [self._waiting.popleft()]
        size = batch[0][0].nbytes
        while self._waiting and size + self._waiting[0][0].nbytes <= LARGEST_OBJECT:
            batch.append(self._waiting.popleft())
            size += batch[-1][0].nbytes
        try:
            reference = ray.put([array for array, _ in batch])
        except Exception as error:  # each of these threads raises it
            for _, stored in batch:
                stored.set_exception(error)
        else:
            for index, (_, stored) in enumerate(batch):
                stored.set_result(Stored(reference, index))


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
