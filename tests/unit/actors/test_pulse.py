"""What a heartbeat says of a worker's loops, and how it travels."""

import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FunctionType

import pytest
import torch

from antiphon.actors.address import Host
from antiphon.actors.base_actor import WorkerActor
from antiphon.actors.channel import Receiver
from antiphon.actors.frames import HeartbeatDecoder
from antiphon.actors.member_messages import Heartbeat, Member
from antiphon.actors.pulse import (
    HEARTBEAT_SECONDS,
    Pulse,
    Standstill,
    WorkerReport,
    _compiles,
)
from antiphon.actors.worker import Worker
from antiphon.scheduler.request import Incarnation


class Busy(Worker[object]):
    """Its next rounds last until they are let go."""

    poll_timeout, device = 0.0, torch.device("cpu")

    def __init__(self, work: Callable[[threading.Event], object]) -> None:
        super().__init__()
        self.work, self.go_on = work, threading.Event()

    def handle(self, message: object) -> None: ...

    def refuse(self, message: object, error: Exception) -> None: ...

    def run_once(self) -> None:
        self.work(self.go_on)

    def end(self) -> None:
        self.closing.set()
        self.go_on.set()
        self.close()


def waits(event: threading.Event) -> object:
    return event.wait()


def in_file(name: str) -> Callable[[threading.Event], object]:
    """As `waits`, of a function that seems to stand in another file."""
    code: CodeType = waits.__code__.replace(co_filename=name)
    return FunctionType(code, {})


@pytest.mark.parametrize(
    ("file", "stands"),
    [
        (__file__, True),
        ("/site-packages/triton/compiler/compiler.py", False),
        ("/site-packages/flashinfer/jit/core.py", False),
        ("/site-packages/torch/_dynamo/convert_frame.py", False),
        ("/site-packages/torch/_inductor/compile_fx.py", False),
        ("/site-packages/torch/_dynamo/eval_frame.py", True),  # runs what was compiled
    ],
)
def test_a_loop_that_hangs_stands_still_but_not_one_that_compiles(file: str, stands: bool) -> None:
    worker = Busy(in_file(file))
    worker.start()
    standstill = Standstill([worker])
    time.sleep(0.3)
    assert (standstill.look() > 0.2) is stands
    worker.end()


def test_time_in_which_the_whole_process_stood_still_does_not_count() -> None:
    """No heartbeat came in it either: a loop that hangs is known by those that come in time."""
    worker = Busy(waits)
    worker.start()
    standstill = Standstill([worker])
    time.sleep(2.5 * HEARTBEAT_SECONDS)
    assert standstill.look() == HEARTBEAT_SECONDS
    assert standstill.look() < 1.2 * HEARTBEAT_SECONDS, "also of two in a row behind it"
    for count in (2, 3):
        time.sleep(HEARTBEAT_SECONDS)
        assert count * HEARTBEAT_SECONDS <= standstill.look() < (count + 0.2) * HEARTBEAT_SECONDS
    worker.end()


def test_only_the_first_call_of_a_compiled_function_counts_as_compiling() -> None:
    """With the files that this torch has on its stack."""
    compiles: list[bool] = []

    def backend(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        compiles.append(_compiles(sys._getframe()))

        def run(*arguments: torch.Tensor) -> object:
            compiles.append(_compiles(sys._getframe()))
            return module(*arguments)

        return run

    double = torch.compile(lambda tensor: 2 * tensor, backend=backend)
    assert double(torch.ones(2)).tolist() == [2.0, 2.0]
    assert compiles == [True, False]


def test_a_loop_that_comes_round_does_not_stand_still() -> None:
    worker = Busy(lambda event: event.wait(0.01))
    worker.start()
    standstill = Standstill([worker])
    for _ in range(3):
        time.sleep(HEARTBEAT_SECONDS)
        assert standstill.look() < HEARTBEAT_SECONDS  # a busy machine may let it wait for a while
    worker.end()


class Actor(WorkerActor):
    def connect(self, members: list[Member]) -> None: ...

    def receive(self, message: object) -> None: ...

    def load_report(self) -> dict[str, float]:
        return {"open": 3}

    def held(self) -> bytes:
        return b"keys"


def test_news_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    host, heard, news = Host("127.0.0.1", "here"), list[Heartbeat](), threading.Event()
    monkeypatch.setattr(Host, "here", lambda: host)
    receiver = Receiver(host, heard.append, HeartbeatDecoder())
    receiver.start()
    pulse = Pulse(Incarnation("d", 1), receiver.address, WorkerReport(Actor()), news)
    pulse.start()
    time.sleep(1.4 * HEARTBEAT_SECONDS)  # after the first regular one
    before = len(heard)
    news.set()
    time.sleep(0.3 * HEARTBEAT_SECONDS)
    assert len(heard) == before + 1
    assert not news.is_set()
    pulse.close()
    receiver.close()


def test_heartbeats_come_regularly(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host("127.0.0.1", "here")
    monkeypatch.setattr(Host, "here", lambda: host)
    heard: list[Heartbeat] = []
    receiver = Receiver(host, heard.append, HeartbeatDecoder())
    receiver.start()
    sender = Incarnation("decoder-0", 3)
    pulse = Pulse(sender, receiver.address, WorkerReport(Actor()))
    pulse.start()
    time.sleep(3.5 * HEARTBEAT_SECONDS)
    pulse.close()
    receiver.close()
    assert 2 <= len(heard) <= 3
    assert [each.load["heartbeats"] for each in heard] == [1, 2, 3][: len(heard)]
    assert heard[0].sender == sender
    assert (heard[0].load["open"], heard[0].held) == (3, b"keys")
