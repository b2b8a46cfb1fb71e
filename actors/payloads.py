"""How inputs travel: large ones in Ray's object store, those that come at the same time as one object. An object costs more than a
millisecond, however small it is; thirty clips of five seconds cost little more together than one."""

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from antiphon.scheduler.request import Request

LARGEST_OBJECT = 16 << 20  # bytes: the first of a batch should not wait for many others


@dataclass(frozen=True)
class Stored:
    """An input in the object store: number `index` of the arrays that `reference` stands for."""

    reference: Any
    index: int


@dataclass
class _Kept:
    """An input in the store while any open request may need it encoded."""

    stored: Stored
    users: set[int] = field(default_factory=set)  # ids of requests


class PayloadStore:
    """While one thread puts what has come so far, more comes: the next puts all of that."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}  # by content
        self._waiting: deque[tuple[np.ndarray, Future[Stored]]] = deque()
        self._putting = threading.Lock()

    def put_once(self, key: str, array: np.ndarray) -> Stored:
        """As `put`; content that an open request has stored already is not stored again."""
        kept = self._kept.get(key)
        return self.put(array) if kept is None else kept.stored

    def use(self, request: Request) -> None:
        """Notes one more user of the request's input; equal content is kept once, whoever stored it first."""
        if isinstance(request.media.payload, Stored):
            kept = self._kept.setdefault(request.media.key, _Kept(request.media.payload))
            kept.users.add(request.id)
            request.media = replace(request.media, payload=kept.stored)

    def release(self, request: Request) -> None:
        """The request has ended."""
        kept = self._kept.get(request.media.key)
        if kept is not None:
            kept.users.discard(request.id)
            if not kept.users:
                del self._kept[request.media.key]

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
        import ray

        try:
            reference = ray.put([array for array, _ in batch])
        except Exception as error:  # each of these threads raises it
            for _, stored in batch:
                stored.set_exception(error)
        else:
            for index, (_, stored) in enumerate(batch):
                stored.set_result(Stored(reference, index))


def fetch(payloads: Iterable[Any]) -> list[np.ndarray | Exception]:
    """The arrays that `payloads` are or stand for, or Ray's error where one can't be had. What shares an object is fetched together."""
    objects: dict[Any, Any] = {}
    found: list[np.ndarray | Exception] = []
    for payload in payloads:
        if not isinstance(payload, Stored):
            found.append(payload)
            continue
        if payload.reference not in objects:
            objects[payload.reference] = _get(payload.reference)
        there = objects[payload.reference]
        found.append(there if isinstance(there, Exception) else there[payload.index])
    return found


def _get(reference: Any) -> Any:
    import ray  # here and above: without Ray, inputs go with their requests

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error
