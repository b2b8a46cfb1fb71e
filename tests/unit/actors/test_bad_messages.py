"""A message whose handling fails ends its own requests, and a worker serves everybody else."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from worker_system import System, running_system

from antiphon.actors.frames import MessageError
from antiphon.actors.links import Links
from antiphon.actors.messages import (
    Cancel,
    Encode,
    EncodeFailed,
    EncodeJob,
    Input,
    Unreadable,
)
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import (
    Finished,
    Request,
    RequestId,
    RequestState,
)


def fail(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("unforeseen")


@pytest.fixture
def system(checkpoints: Any) -> Any:
    folder, _ = checkpoints("t5")
    with running_system(folder) as system:
        yield system


Patch = pytest.MonkeyPatch


def test_a_request_that_is_not_accepted_fails_alone(system: System, monkeypatch: Patch) -> None:
    scheduler = system.actor.decoder.replica.scheduler
    add = scheduler.add
    good, bad = system.request(5, 6), system.request(7)
    monkeypatch.setattr(scheduler, "add", lambda each: fail() if each is bad else add(each))
    system.submit(bad, good)
    system.start()
    first, second = system.wait(bad, good)
    assert (first.state, second.state) == (RequestState.FAILED, RequestState.DONE)
    assert "was not accepted: ZeroDivisionError: unforeseen" in str(first.error)


def test_an_unreadable_request_is_answered(system: System) -> None:
    system.start()
    system.actor.receive(Unreadable(RequestId(system.name, 77), "cannot be read: too odd"))
    system.check_serves()
    assert system.frontend.ends[77].state is RequestState.FAILED
    assert system.frontend.ends[77].error == "cannot be read: too odd"


@pytest.mark.parametrize("method", ["cancel", "stop"])
def test_an_end_that_fails_still_ends_its_request(
    system: System, monkeypatch: Patch, method: str
) -> None:
    from antiphon.actors.messages import Stop

    request = system.request(5, 6)
    monkeypatch.setattr(system.actor.decoder.replica.scheduler, method, fail)
    system.submit(request)
    system.actor.receive((Cancel if method == "cancel" else Stop)(request.id))
    system.start()
    (finished,) = system.wait(request)
    assert finished.state is RequestState.FAILED
    system.check_serves()


@pytest.mark.parametrize("breaks_once", ["receive_hidden", "encode_failed"])
def test_an_encoders_answer_that_cannot_be_taken_in_fails_who_waits_for_it(
    system: System, monkeypatch: Patch, breaks_once: str
) -> None:
    replica = system.actor.decoder.replica
    owner: Any = replica if breaks_once == "receive_hidden" else replica.scheduler
    request = system.request(5, 6) if owner is replica else system.request(10**6)  # no such token
    with monkeypatch.context() as patch:
        patch.setattr(owner, breaks_once, fail)
        system.submit(request)
        system.start()
        (finished,) = system.wait(request)
    assert finished.state is RequestState.FAILED
    assert "ZeroDivisionError" in str(finished.error)
    system.check_serves()


def test_a_job_that_cannot_be_taken_in_fails_alone(system: System, monkeypatch: Patch) -> None:
    request = system.request(5, 6)
    with monkeypatch.context() as patch:
        patch.setattr(system.actor.encoder._jobs, "add", fail)
        system.submit(request)
        system.start()
        (finished,) = system.wait(request)
    assert "the encoder could not take its job: ZeroDivisionError" in str(finished.error)
    system.check_serves()


@pytest.mark.parametrize(
    "message", ["nonsense", 5, Input("f", "k", np.zeros((2, 2)))], ids=["text", "number", "shape"]
)
def test_a_message_that_no_worker_knows_is_named_and_dropped(
    system: System, message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    system.start()
    system.actor.encoder.send(message)
    system.actor.decoder.send(message)
    system.check_serves()
    assert f"{type(message).__name__} could not be handled" in caplog.text


def test_a_result_that_cannot_travel_ends_its_request_and_no_other(
    system: System, monkeypatch: Patch
) -> None:
    good, bad = system.request(5, 6), system.request(7)
    of = Finished.of

    def spoilt(request: Request, reason: Any, error: Any) -> Finished:
        finished = of(request, reason, error)
        if request.id == bad.id:
            finished.token_ids = [object()]  # type: ignore[list-item]
        return finished

    monkeypatch.setattr(Finished, "of", spoilt)
    system.submit(bad, good)
    system.start()
    first, second = system.wait(bad, good)
    assert (first.state, second.state) == (RequestState.FAILED, RequestState.DONE)
    assert "its result cannot travel" in str(first.error)


def test_hidden_states_that_cannot_travel_fail_their_jobs(system: System) -> None:
    class Decoder:
        in_this_process = False

        def __init__(self) -> None:
            self.failed: list[EncodeFailed] = []

        def send(self, message: Any) -> None:
            if isinstance(message, HiddenStates):
                raise MessageError("too long")
            self.failed.append(message)

    decoder, encoder = Decoder(), system.actor.encoder
    encoder.connect(Links(local={"decoder-7": decoder}))
    encoder.send(Input("f", "k", np.array([5, 6], np.int32)))
    encoder.send(Encode([EncodeJob("k", 2, "decoder-7", ("f",))]))
    _wait_for(lambda: bool(decoder.failed))
    assert "its hidden states cannot travel: too long" in decoder.failed[0].error
    assert encoder.alive


def test_the_error_of_a_device_that_is_of_no_more_use_ends_the_worker(
    system: System, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(system.actor.decoder.replica, "receive_hidden", fail)
    monkeypatch.setattr(system.actor.decoder.replica.runner, "probe", fail)
    system.start()
    system.actor.decoder.send(HiddenStates(("k",), (1,), torch.zeros(1, 4)))
    _wait_for(lambda: not system.actor.decoder.alive)
    with pytest.raises(RuntimeError, match="DecoderWorker ended: ZeroDivisionError"):
        system.actor.watch()


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)
