"""Errors of steps, encoder batches and handoffs end the requests concerned; those of an unusable
device end its worker."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine

from antiphon.actors.decoder_worker import DecoderWorker
from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.actors.links import Links
from antiphon.actors.messages import (
    DecoderMessage,
    Encode,
    EncodeFailed,
    EncodeJob,
    EncoderMessage,
    Input,
    Submit,
)
from antiphon.config.options import resolve
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Incarnation, RequestState


class DeviceLost(RuntimeError):
    """Stands for what CUDA raises from every call after an illegal access."""


def lost(*_: Any) -> None:
    raise DeviceLost("an illegal memory access was encountered")


def fails_once(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def call(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no memory for this one")
        return function(*arguments)

    return call


@pytest.fixture
def engine(checkpoints: Any) -> PlainEngine:
    return PlainEngine(checkpoints("t5")[0], max_num_seqs=4, max_model_len=40, kv_page_size=8)


def submit(engine: PlainEngine, *texts: list[int]) -> list[int]:
    return [engine.submit(engine.request(np.array(ids, np.int32), [0], 6)) for ids in texts]


def states(engine: PlainEngine, ids: list[int]) -> list[RequestState]:
    return [engine.finished[id_].state for id_ in ids]


@pytest.mark.parametrize("name", ["launch", "cross_kv.write", "_run_layers"])
def test_a_failed_step_ends_its_requests_and_keeps_no_hidden_states(
    engine: PlainEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine.replica.runner
    owner = runner.cross_kv if name.startswith("cross_kv") else runner
    method = name.split(".")[-1]
    monkeypatch.setattr(owner, method, fails_once(getattr(owner, method)))
    first = submit(engine, [5, 6], [7, 8, 9])
    engine.run()
    assert states(engine, first) == [RequestState.FAILED] * 2
    assert "RuntimeError: no memory for this one" in str(engine.finished[first[0]].error)
    engine.step()
    assert len(runner.arena) == 0
    again = submit(engine, [5, 6], [7, 8, 9])
    engine.run()
    assert states(engine, again) == [RequestState.DONE] * 2


def test_a_failed_result_ends_its_requests(
    engine: PlainEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antiphon.decoder.launched_step import LaunchedStep

    monkeypatch.setattr(LaunchedStep, "result", fails_once(LaunchedStep.result))
    first = submit(engine, [5, 6])
    engine.run()
    again = submit(engine, [5, 6])
    engine.run()
    assert states(engine, first + again) == [RequestState.FAILED, RequestState.DONE]


def test_a_device_that_cannot_go_on_ends_the_replica(
    engine: PlainEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.replica.runner, "launch", lost)
    monkeypatch.setattr(engine.replica.runner, "probe", lost)
    submit(engine, [5, 6])
    with pytest.raises(DeviceLost):
        engine.run()


def test_hidden_states_that_cannot_be_taken_in_fail_who_waits_for_them(engine: PlainEngine) -> None:
    engine.delay_encodes = True
    bad, good = submit(engine, [5, 6], [7, 8, 9])
    engine.step()
    keys = [media.key for media in engine.unencoded]
    engine.replica.receive_hidden(
        HiddenStates((keys[0],), (2,), torch.zeros(3, engine.model.encoder.hidden_size))
    )  # 2 is not 3
    engine.unencoded = engine.unencoded[1:]
    engine.run_encoders()
    engine.run()
    assert states(engine, [bad, good]) == [RequestState.FAILED, RequestState.DONE]
    assert "could not be taken in" in str(engine.finished[bad].error)


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


class Decoder:
    """The peer that an encoder worker sends to."""

    in_this_process = False

    def __init__(self) -> None:
        self.received: list[str] = []
        self.failed: dict[str, str] = {}

    def send(self, message: DecoderMessage) -> None:
        match message:
            case HiddenStates(keys):
                self.received += keys
            case EncodeFailed(key, error):
                self.failed[key] = error
            case _:
                raise AssertionError(message)


@pytest.fixture
def encoder(checkpoints: Any) -> Any:
    config = resolve(str(checkpoints("t5")[0]), {"device": "cpu"})
    from antiphon.families.checkpoint import ModelConfig

    worker = EncoderWorker(Incarnation("encoder-0", 0), ModelConfig.load(config.model), config)
    decoder = Decoder()
    yield worker, decoder
    worker.close()


def send(worker: EncoderWorker, *texts: list[int]) -> None:
    """Inputs of texts, and the jobs to encode them."""
    for ids in texts:
        worker.send(Input("frontend", str(ids), np.array(ids, np.int32)))
    jobs = [EncodeJob(str(ids), len(ids), "decoder-0", ("frontend",)) for ids in texts]
    worker.send(Encode(jobs))


def test_news_of_a_job_come_when_a_heartbeat_can_tell_of_it(encoder: Any) -> None:
    """One sent before would take the news for told."""
    worker, _ = encoder
    told: list[float] = []

    class Due(threading.Event):
        def set(self) -> None:
            told.append(worker.load_report()["senders"])

    worker.news.due = Due()
    worker.handle(Encode([EncodeJob("k", 2, "decoder-0", ("frontend",))]))
    assert told == [1]


def test_a_bad_input_fails_alone_and_the_encoder_goes_on(encoder: Any) -> None:
    worker, decoder = encoder
    worker.connect(Links(local={"decoder-0": decoder}))
    send(worker, [5, 6], [10**6], [7])  # outside the vocabulary
    wait(lambda: len(decoder.received) + len(decoder.failed) == 3)
    assert (set(decoder.received), set(decoder.failed)) == ({"[5, 6]", "[7]"}, {"[1000000]"})
    assert "token ids must be within" in decoder.failed["[1000000]"]
    assert worker.alive


def test_answers_to_a_decoder_that_is_not_known_yet_arrive_later(encoder: Any) -> None:
    """Hidden states, and the failure of a bad input."""
    worker, decoder = encoder
    known: dict[str, Any] = {}
    worker.connect(Links(local=known))
    send(worker, [5, 6], [10**6], [7])
    wait(lambda: len(worker._answers._undelivered) == 3)
    known["decoder-0"] = decoder
    wait(lambda: len(decoder.received) + len(decoder.failed) == 3)
    assert (set(decoder.received), set(decoder.failed)) == ({"[5, 6]", "[7]"}, {"[1000000]"})


def test_an_encoder_whose_device_cannot_go_on_dies(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, decoder = encoder
    monkeypatch.setattr(worker.runner, "encode", lost)
    monkeypatch.setattr(worker, "_probe", lost)
    worker.connect(Links(local={"decoder-0": decoder}))
    send(worker, [5, 6], [7])
    wait(lambda: not worker.alive)
    assert isinstance(worker.failure, DeviceLost)
    assert not decoder.failed


def test_a_decoder_whose_device_cannot_go_on_dies(
    engine: PlainEngine, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(
        str(checkpoints("t5")[0]), {"device": "cpu", "num_kv_pages": 100, "kv_page_size": 8}
    )
    worker = DecoderWorker(Incarnation("decoder-0", 0), engine.model, config, None)
    monkeypatch.setattr(worker.replica.runner, "launch", lost)
    monkeypatch.setattr(worker.replica.runner, "probe", lost)
    request = engine.request(np.array([5, 6], np.int32), [0], 6)
    request.encoder = "encoder-0"
    hidden = engine.encoder.encode([request.inputs[0].payload]).hidden

    class Encoder:
        in_this_process = True

        def send(self, message: EncoderMessage) -> None:
            assert isinstance(message, Encode)
            worker.send(HiddenStates((message.jobs[0].key,), (2,), hidden))

    worker.connect(Links(local={"encoder-0": Encoder()}))
    worker.send(Submit([request]))
    wait(lambda: not worker.alive)
    assert isinstance(worker.failure, DeviceLost)
