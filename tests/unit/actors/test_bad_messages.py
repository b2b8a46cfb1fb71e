"""A message whose handling fails ends its own requests, and a worker serves everybody else."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine

from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.frames import MessageError
from antiphon.actors.links import Links
from antiphon.actors.local import ThreadPeer
from antiphon.actors.messages import (
    Cancel,
    Encode,
    EncodeFailed,
    EncodeJob,
    FrontendMessage,
    Input,
    NotOpen,
    Output,
    StillOpen,
    Submit,
    Unreadable,
)
from antiphon.actors.wire import MessageEncoder
from antiphon.config.options import resolve
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler import encodes
from antiphon.scheduler.request import Finished, Incarnation, Request, RequestId, RequestState


def fail(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("unforeseen")


class Frontend:
    """A frontend beside the workers. Its messages are encoded as if they left the process."""

    def __init__(self) -> None:
        self.ends: dict[int, Finished] = {}
        self.lost: list[NotOpen] = []
        self._encoder = MessageEncoder(b"x" * 16)

    def send(self, message: FrontendMessage) -> None:
        self._encoder.encode(message)
        if isinstance(message, NotOpen):
            self.lost.append(message)
        if isinstance(message, Output):
            for finished in message.output.finished:
                assert finished.number not in self.ends
                self.ends[finished.number] = finished


class System:
    """Both workers, and a frontend."""

    def __init__(self, plain: PlainEngine, actor: ColocatedActor) -> None:
        self.plain, self.actor, self.frontend = plain, actor, Frontend()
        self.name = ""

    def start(self) -> None:
        self.actor.start("", {self.name: ThreadPeer(self.frontend.send)})

    def request(self, *ids: int) -> Request:
        request = self.plain.request(np.array(ids, np.int32), [0], 4)
        (media,) = request.inputs
        request.encoder = "encoder-0"
        self.name = request.id.frontend
        self.actor.receive(Input(self.name, media.key, media.payload))
        return request

    def submit(self, *requests: Request) -> None:
        self.actor.receive(Submit(list(requests)))

    def wait(self, *requests: Request) -> list[Finished]:
        end = time.monotonic() + 20
        while not all(request.id.number in self.frontend.ends for request in requests):
            assert time.monotonic() < end, f"only {self.frontend.ends} ended"
            assert self.actor.encoder.alive, self.actor.encoder.failure
            assert self.actor.decoder.alive, self.actor.decoder.failure
            time.sleep(0.005)
        return [self.frontend.ends[request.id.number] for request in requests]

    def check_serves(self) -> None:
        self.submit(request := self.request(9, 8, 7))
        (finished,) = self.wait(request)
        assert finished.state is RequestState.DONE, finished.error


@pytest.fixture
def system(checkpoints: Any) -> Any:
    folder, _ = checkpoints("t5")
    plain = PlainEngine(folder, max_num_seqs=4, max_model_len=40, kv_page_size=8)
    options = {"device": "cpu", "num_kv_pages": 100, "kv_page_size": 8, "max_num_seqs": 4}
    actor = ColocatedActor()
    actor.load(Incarnation("decoder-0", 0), plain.model, resolve(str(folder), options), None)
    system = System(plain, actor)
    system.request(1)  # learns the frontend's name
    yield system
    actor.close()


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
    encoder.connect(Links(here={"decoder-7": decoder}))
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


def test_a_decoder_tells_which_requests_it_does_not_have(system: System) -> None:
    request = system.request(5, 6)
    number = request.id.number
    system.submit(request)
    system.actor.receive(StillOpen(system.name, [number]))  # it is open: no answer
    system.start()
    system.wait(request)
    assert system.frontend.lost == []
    system.actor.receive(StillOpen(system.name, [number, 999]))
    system.check_serves()
    assert system.frontend.lost == [NotOpen([number, 999], Incarnation("decoder-0", 0))]


def test_an_encoder_that_got_no_job_is_asked_again(system: System, monkeypatch: Patch) -> None:
    monkeypatch.setattr(encodes, "ASK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(encodes, "CHECK_SECONDS", 0.05)
    encoder, jobs = system.actor.encoder, list[Encode]()
    take = encoder.send

    def lossy(message: Any) -> None:
        if isinstance(message, Encode):
            jobs.append(message)
        if len(jobs) != 1:  # the first one is lost
            take(message)

    monkeypatch.setattr(encoder, "send", lossy)
    system.start()
    system.check_serves()
    assert [message.again for message in jobs[:2]] == [False, True]
    assert system.actor.decoder.stats()["encodes_asked_again"] >= 1
