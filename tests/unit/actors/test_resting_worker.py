"""A worker without work gives free memory back; one with work does not."""

import threading
import time

import pytest
import torch

from antiphon.actors.worker import IDLE_SECONDS, Worker
from antiphon.runtime.idle_memory import REST_SECONDS, IdleMemory


class EmptyHanded(Worker[None]):
    device = torch.device("cpu")

    def __init__(self, poll_timeout: float) -> None:
        super().__init__()
        self._timeout, self.turns = poll_timeout, 0
        self.gave_back = threading.Event()
        hurried = IdleMemory(self.gave_back.set, lambda: 100 * REST_SECONDS * time.monotonic())
        self._memory = hurried

    @property
    def poll_timeout(self) -> float:
        return self._timeout

    def handle(self, message: None) -> None: ...

    def refuse(self, message: None, error: Exception) -> None: ...

    def run_once(self) -> None:
        self.turns += 1
        time.sleep(0.001)


@pytest.mark.parametrize(("poll_timeout", "gives_back"), [(IDLE_SECONDS, True), (0.0, False)])
def test_a_worker_that_rests(poll_timeout: float, gives_back: bool) -> None:
    worker = EmptyHanded(poll_timeout)
    worker.start()
    try:
        assert worker.gave_back.wait(5.0 if gives_back else 0.2) is gives_back
        assert worker.turns > 0
    finally:
        worker.close()
    assert worker.failure is None
