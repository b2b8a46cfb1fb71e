"""Inputs on their way through the object store, which is a dictionary here."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray

from antiphon.actors.payloads import MAX_OBJECT_BYTES, PayloadStore, Stored, fetch


class Objects:
    """Stands for Ray: a put takes a while, as there."""

    def __init__(self) -> None:
        self.held: dict[str, list[np.ndarray]] = {}
        self.gets = 0
        self.first_may_end = threading.Event()

    def put(self, arrays: list[np.ndarray]) -> str:
        if not self.held:
            assert self.first_may_end.wait(10)
        self.held[name := f"object {len(self.held)}"] = arrays
        return name

    def get(self, reference: str) -> Any:
        self.gets += 1
        if reference not in self.held:
            raise ray.exceptions.ObjectLostError("0" * 56, None, "")
        return self.held[reference]


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Objects:
    objects = Objects()
    monkeypatch.setattr(ray, "put", objects.put)
    monkeypatch.setattr(ray, "get", objects.get)
    return objects


def put_while_one_is_in_flight(objects: Objects, arrays: list[np.ndarray]) -> list[Future[Stored]]:
    store = PayloadStore()
    with ThreadPoolExecutor(len(arrays)) as threads:
        stored = [threads.submit(store.put, arrays[0])]
        while not store._storing.locked():
            time.sleep(0.001)
        time.sleep(0.05)
        stored += [threads.submit(store.put, array) for array in arrays[1:]]
        while len(store._waiting) < len(arrays) - 1:
            time.sleep(0.001)
        objects.first_may_end.set()
        return stored


def test_what_comes_together_is_one_object_and_is_fetched_once(objects: Objects) -> None:
    arrays = [np.full(10 + i, i, np.float32) for i in range(9)]
    stored = [future.result(10) for future in put_while_one_is_in_flight(objects, arrays)]
    assert len(objects.held) == 2  # the first, and all that came meanwhile
    for array, wanted in zip(fetch(reversed(stored)), reversed(arrays), strict=True):
        assert np.array_equal(array, wanted)
    assert objects.gets == 2


def test_an_object_grows_no_larger_than_its_bound(objects: Objects) -> None:
    arrays = [np.zeros(MAX_OBJECT_BYTES // 4 // 3, np.float32) for _ in range(8)]
    for future in put_while_one_is_in_flight(objects, arrays):
        future.result(10)
    assert sorted(len(held) for held in objects.held.values()) == [1, 1, 3, 3]


def test_a_put_that_fails_is_told_to_all_whose_inputs_it_had_and_to_nobody_else(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(arrays: list[np.ndarray]) -> str:
        if objects.held:
            raise ray.exceptions.ObjectStoreFullError("full")
        return objects.put(arrays)

    monkeypatch.setattr(ray, "put", put)
    first, *others = put_while_one_is_in_flight(
        objects, [np.zeros(4, np.float32) for _ in range(5)]
    )
    assert first.result(10).index == 0
    for future in others:
        with pytest.raises(ray.exceptions.ObjectStoreFullError, match="full"):
            future.result(10)
    with pytest.raises(ray.exceptions.ObjectStoreFullError):
        PayloadStore().put(np.zeros(4))


def test_a_lost_object_fails_those_who_need_it(objects: Objects) -> None:
    objects.first_may_end.set()
    store, array = PayloadStore(), np.arange(3.0)
    kept, lost = store.put(array), store.put(array)
    del objects.held[lost.reference]
    fetched = fetch([kept, lost, array])
    assert np.array_equal(fetched[0], array)
    assert isinstance(fetched[1], ray.exceptions.RayError)
    assert fetched[2] is array
