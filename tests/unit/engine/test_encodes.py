"""Encodes of a frontend: asked once, asked again where nothing is heard, ended with the engine."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from dispatching import Sent, in_loop, sound, text

from antiphon.actors.messages import Encode, EncodeFailed, Input, InputGone
from antiphon.config.errors import EngineDeadError, RequestFailed
from antiphon.engine import encodes
from antiphon.engine.dispatch import Dispatcher
from antiphon.engine.encodes import Encodes
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.router import Router
from antiphon.scheduler.trials import trial_mark
from antiphon.scheduler.worker_load import WorkerState


def made(*encoders: str) -> tuple[Encodes, Sent, Router]:
    sent, router = Sent(), Router(WorkerState(name, "encoder", 0) for name in encoders)
    dispatcher = Dispatcher("f", lambda request, error: None)
    dispatcher.workers = sent  # type: ignore[assignment]
    return Encodes(dispatcher, router), sent, router


def asked(sent: Sent) -> list[tuple[str, list[str], bool]]:
    """Encoders, the keys that they are asked for, and whether again."""
    return [
        (encoder, [job.key for job in message.jobs], message.again)
        for encoder, message in sent.take()
        if isinstance(message, Encode)
    ]


async def begun(work: Encodes, *calls: tuple[Any, bool]) -> list[asyncio.Task[np.ndarray]]:
    tasks = [asyncio.create_task(work.encode(media, pooled)) for media, pooled in calls]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


@in_loop
async def test_equal_inputs_are_encoded_once_and_others_go_in_one_message() -> None:
    work, sent, _ = made("encoder-0")
    long = sound()
    tasks = await begun(work, (long, False), (long, False), (text("t", 1, 2), False))
    assert [type(message) for _, message in sent.messages] == [Input, Input, Encode]
    assert asked(sent) == [("encoder-0", ["k", "t"], False)]
    packed = torch.arange(6.0).reshape(3, 2)
    work.receive(HiddenStates(("t", "k"), (2, 1), packed))
    results = [await task for task in tasks]
    assert np.array_equal(results[0], [[4, 5]])
    assert np.array_equal(results[1], results[0])
    assert np.array_equal(results[2], [[0, 1], [2, 3]])
    assert len(work) == 0
    await asyncio.sleep(0)
    assert {type(message) for _, message in sent.take()} == {InputGone}


@in_loop
async def test_states_and_embedding_of_one_input_are_two_jobs() -> None:
    work, sent, _ = made("encoder-0")
    tasks = await begun(work, (sound(), False), (sound(), True))
    assert asked(sent) == [("encoder-0", ["k", "k-pooled"], False)]
    work.receive(HiddenStates(("k",), (2,), torch.zeros(2, 3)))
    work.receive(HiddenStates(("k-pooled",), (1,), torch.ones(1, 5)))
    assert [(await task).shape for task in tasks] == [(2, 3), (5,)]


@in_loop
async def test_an_encoder_that_is_not_heard_of_is_asked_again_and_one_that_is_gone_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encodes, "AGAIN_SECONDS", 0.02)
    work, sent, router = made("encoder-0", "encoder-1")
    (task,) = await begun(work, (sound(), False))
    assert asked(sent) == [("encoder-0", ["k"], False)]
    await asyncio.sleep(0.03)
    assert asked(sent)[0] == ("encoder-0", ["k"], True)
    router.update([WorkerState("encoder-1", "encoder", 0)])
    sent.take()
    await asyncio.sleep(0.03)
    assert [type(message) for _, message in sent.messages][:2] == [Input, Encode]
    assert asked(sent)[0][0] == "encoder-1"
    work.receive(HiddenStates(("k",), (1,), torch.zeros(1, 2)))
    work.receive(HiddenStates(("k",), (1,), torch.ones(1, 2)))  # of the first one, after all
    assert np.array_equal(await task, [[0, 0]])


@in_loop
async def test_when_an_encoder_dies_another_one_is_asked_at_once() -> None:
    work, sent, router = made("encoder-0")
    router.update([WorkerState("encoder-0", "encoder", 1)])
    (task,) = await begun(work, (sound(), False))
    assert asked(sent) == [("encoder-0", ["k"], False)]
    router.update([WorkerState("encoder-0", "encoder", 1, alive=False)])
    work.note_deaths()
    assert asked(sent) == []  # there is none
    router.update([WorkerState("encoder-1", "encoder", 1)])
    work.note_deaths()
    assert asked(sent) == [("encoder-1", ["k"], False)]  # which may have answered it before
    work.note_deaths()
    assert asked(sent) == []
    work.receive(HiddenStates(("k",), (1,), torch.zeros(1, 2)))
    await task


@in_loop
async def test_failures_and_the_engines_end() -> None:
    work, sent, _ = made("encoder-0")
    first, second = await begun(work, (sound("a"), False), (sound("b"), False))
    work.fail(EncodeFailed("a", "the encoder failed: reason"))
    with pytest.raises(RequestFailed, match="reason"):
        await first
    sent.take()
    work.fail(EncodeFailed("b", "its input is gone", input_gone=True))
    assert asked(sent) == [("encoder-0", ["b"], True)]
    work.end_all("closed")
    with pytest.raises(EngineDeadError, match="closed"):
        await second
    assert len(work) == 0


@in_loop
async def test_a_caller_that_leaves_takes_only_its_own_encode_with_it() -> None:
    work, *_ = made("encoder-0")
    first, second = await begun(work, (sound(), False), (sound(), False))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert len(work) == 1
    work.receive(HiddenStates(("k",), (1,), torch.zeros(1, 2)))
    assert (await second).shape == (1, 2)
    (third,) = await begun(work, (sound(), False))
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    assert len(work) == 0
    work.receive(HiddenStates(("k",), (1,), torch.zeros(1, 2)))  # for nobody


@in_loop
async def test_an_input_that_kills_encoders_is_given_up_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After two deaths each of the two is encoded on trial, and the encoder tells which it is."""
    monkeypatch.setattr(encodes, "AGAIN_SECONDS", 0.02)
    work, sent, router = made("encoder-0")
    router.update([WorkerState("encoder-0", "encoder", 1)])
    poison, innocent = await begun(work, (sound("bad"), False), (sound("good"), False))
    for epoch in range(2, 6):
        assert not poison.done()
        await asyncio.sleep(0.03)
        jobs = [
            job for _, message in sent.take() if isinstance(message, Encode) for job in message.jobs
        ]
        assert {job.key: job.trial for job in jobs} == {"bad": epoch > 3, "good": epoch > 3}
        load = {"trial": trial_mark("bad") if epoch > 3 else 0}
        router.update([WorkerState("encoder-0", "encoder", epoch, last_load=load)])
        work.note_deaths()
        work.note_deaths()  # news of the same death
    with pytest.raises(RequestFailed, match="4 encoders died while they had it, 2 alone"):
        await poison
    work.receive(HiddenStates(("good",), (1,), torch.zeros(1, 2)))
    assert (await innocent).shape == (1, 2)


@in_loop
async def test_an_encoder_whose_end_was_wanted_blames_nobody() -> None:
    work, _, router = made("encoder-0", "encoder-1")
    router.update([WorkerState(f"encoder-{i}", "encoder", 1) for i in range(2)])
    (task,) = await begun(work, (sound(), False))
    (wanted,) = work._wanted.values()
    router.update([WorkerState("encoder-1", "encoder", 1)])
    work.note_deaths()
    assert (wanted.deaths, wanted.encoder) == (0, "encoder-1")
    work.receive(HiddenStates(("k",), (1,), torch.zeros(1, 2)))
    await task
