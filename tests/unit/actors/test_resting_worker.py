"""A worker without work gives free memory back; one with work does not."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from antiphon.actors.worker import IDLE_SECONDS, Worker
from antiphon.runtime.idle_memory import REST_SECONDS, IdleMemory


class Quick(Worker[None]):
    """Does in each turn all that has come."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.jobs, self.done = 0, 0
        self.gave_back = threading.Event()
        self._memory = IdleMemory(self.gave_back.set, lambda: 50 * REST_SECONDS * time.monotonic())

    @property
    def poll_timeout(self) -> float:
        return 0.0 if self.jobs else IDLE_SECONDS

    def handle(self, message: None) -> None:
        self.jobs += 1

    def refuse(self, message: None, error: Exception) -> None: ...

    def run_once(self) -> None:
        self.done, self.jobs = self.done + self.jobs, 0


@pytest.fixture
def worker() -> Iterator[Quick]:
    worker = Quick()
    worker.start()
    yield worker
    worker.close()
    assert worker.failure is None


def test_in_each_rest(worker: Quick) -> None:
    """Also where a turn begins and ends without work, and did some in between."""
    for number in range(3):
        assert worker.gave_back.wait(5.0)
        worker.gave_back.clear()
        assert not worker.gave_back.wait(0.1)  # once is enough
        worker.send(None)
        while worker.done <= number:
            time.sleep(0.001)
