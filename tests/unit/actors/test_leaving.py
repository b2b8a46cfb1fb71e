"""The end of a rank's process: the other ranks hear of it, and it is told why, even if the device
hangs."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from thread_group import make_ranks

from antiphon.actors import worker_process
from antiphon.actors.worker_process import WorkerProcess
from antiphon.config.parallel import Parallel


def process_of(ranks: Any, error: Exception | None = None) -> WorkerProcess:
    def watch() -> None:
        if error is not None:
            raise error

    process, actor = WorkerProcess(), SimpleNamespace(watch=watch)
    process.actor, process._ranks = actor, ranks  # type: ignore[assignment]
    return process


def test_the_others_hear_of_it() -> None:
    first, second = make_ranks(Parallel(2))

    def wait() -> None:
        with pytest.raises(threading.BrokenBarrierError):
            second.barrier()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert process_of(first).watch() == "it stopped"
    waiting.join(10)
    assert not waiting.is_alive()


def test_one_rank_has_nobody_to_tell() -> None:
    assert process_of(None).watch() == "it stopped"


def test_what_ended_it_is_told_though_the_device_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "LEAVE_SECONDS", 0.1)
    hangs = threading.Event()
    process = process_of(SimpleNamespace(close=hangs.wait), RuntimeError("a rank hangs"))
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="a rank hangs"):
        process.watch()
    assert time.monotonic() - began < 10
    hangs.set()
