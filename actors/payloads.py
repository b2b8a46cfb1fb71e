"""Large inputs in Ray's object store; those that come at the same time are stored as one object.

Storing an object takes over a millisecond, however small it is: thirty clips of five seconds take
little longer together than one.
"""

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from antiphon.scheduler.request import Request, RequestId

MAX_OBJECT_BYTES = 16 << 20  # so that the first input of a batch does not wait for many others


@dataclass(frozen=True)
class Stored:
    """An input in the object store: number `index` of the arrays in the object `reference`."""

    reference: Any
    index: int


@dataclass
class _Kept:
    """A stored input, and the ids of the open requests that may need it encoded."""

    stored: Stored
    users: set[RequestId] = field(default_factory=set)


class PayloadStore:
    """Stores arrays in batches: what arrives while one thread stores a batch is the next batch."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}  # by content
        self._waiting: deque[tuple[np.ndarray, Future[Stored]]] = deque()
        self._storing = threading.Lock()

    def put_once(self, key: str, array: np.ndarray) -> Stored:
        """As `put`, but content that an open request has stored is not stored again."""
        kept = self._kept.get(key)
        return self.put(array) if kept is None else kept.stored

    def use(self, request: Request) -> None:
        """Adds a user of the request's input. Equal content is kept once, as first stored."""
        if isinstance(request.media.payload, Stored):
            kept = self._kept.setdefault(request.media.key, _Kept(request.media.payload))
            kept.users.add(request.id)
            request.media = replace(request.media, payload=kept.stored)

    def release(self, request: Request) -> None:
        """The request has ended: its input may go unless another request uses it."""
        kept = self._kept.get(request.media.key)
        if kept is not None:
            kept.users.discard(request.id)
            if not kept.users:
                del self._kept[request.media.key]

    def put(self, array: np.ndarray) -> Stored:
        """Returns once `array` is in the store. From any thread.

        Raises Ray's error if the batch holding `array` could not be stored.
        """
        stored: Future[Stored] = Future()
        self._waiting.append((array, stored))
        with self._storing:
            while not stored.done():
                self._put_batch()
        return stored.result()

    def _put_batch(self) -> None:
        batch = [self._waiting.popleft()]
        size = batch[0][0].nbytes
        while self._waiting and size + self._waiting[0][0].nbytes <= MAX_OBJECT_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1][0].nbytes
        import ray

        try:
            reference = ray.put([array for array, _ in batch])
        except Exception as error:  # every thread of this batch raises it
            for _, stored in batch:
                stored.set_exception(error)
        else:
            for index, (_, stored) in enumerate(batch):
                stored.set_result(Stored(reference, index))


def fetch(payloads: Iterable[Any]) -> list[np.ndarray | Exception]:
    """The array of each payload, itself or stored; Ray's error in place of one that was lost.
    Fetches each object once."""
    objects: dict[Any, Any] = {}
    arrays: list[np.ndarray | Exception] = []
    for payload in payloads:
        if not isinstance(payload, Stored):
            arrays.append(payload)
            continue
        if payload.reference not in objects:
            objects[payload.reference] = _get(payload.reference)
        stored = objects[payload.reference]
        arrays.append(stored if isinstance(stored, Exception) else stored[payload.index])
    return arrays


def _get(reference: Any) -> Any:
    import ray  # not at the top: without Ray, inputs travel inside their requests

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error
