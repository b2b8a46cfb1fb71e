"""The loop of an encoder worker while its writes by NIXL are on their way."""

from typing import Any

import numpy as np
import pytest
import torch
from arena_pair import CPU, ENCODER, Decoder, batch_of
from played_nixl import PlayedNixl

from antiphon.actors.arena_places import export_arena
from antiphon.actors.departures import Departures, _Departed
from antiphon.actors.encoder_batch import LaunchedBatch
from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.actors.links import Links
from antiphon.actors.messages import (
    Encode,
    EncodeJob,
    Input,
    NotMapped,
    StatesWritten,
    Withdraw,
    Withdrawn,
)
from antiphon.actors.worker import IDLE_SECONDS, POLL_SECONDS
from antiphon.config.options import resolve
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.nixl import BUFFERED_SECONDS, WRITE_SECONDS


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> PlayedNixl:
    world = PlayedNixl()
    world.install(monkeypatch)
    return world


class Answers:
    """A decoder in another process, of which nothing but what it is sent is here."""

    in_this_process = False

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)


def encoding(checkpoints: Any) -> tuple[EncoderWorker, Answers, str]:
    """A worker that has encoded "a" for another process, to be written by ticket 1 into the arena
    of this name."""
    config = resolve(str(checkpoints("t5")[0]), {"device": "cpu"})
    model = ModelConfig.load(config.model)
    arena = StateArena(8, model.decoder.hidden_size, torch.float32, CPU)
    export = export_arena(arena, Links("node"), (), "nixl")
    assert export is not None
    decoder, answers = Decoder(arena, export), Answers()
    worker = EncoderWorker(ENCODER, model, config)
    worker._set_links(Links("node", {"decoder-0": answers}))
    worker.handle(Input("frontend", "a", np.array([5, 6, 7, 1], np.int32)))
    job = EncodeJob("a", 4, "decoder-0", ("frontend",), place=decoder.ask("a"))
    worker.handle(Encode([job], arena=export, epoch=ENCODER.epoch))
    worker.run_once()
    return worker, answers, export.name


def test_a_worker_waits_for_its_writes_without_spinning(
    world: PlayedNixl, checkpoints: Any
) -> None:
    """What is open counts as its load, so that it is not drained meanwhile; and it confirms no
    ticket by which a write may still land."""
    world.is_stuck = True
    worker, answers, arena = encoding(checkpoints)
    assert worker.load_report()["open"] == 4
    assert 0 < worker.poll_timeout <= IDLE_SECONDS
    worker.handle(withdraw := Withdraw("decoder-0", ("a",), (1,), arena))
    assert answers.messages == [], "it cannot be taken back"
    world.now += WRITE_SECONDS + 1
    worker.run_once()
    assert [type(message) for message in answers.messages] == [NotMapped, HiddenStates]
    assert worker.load_report()["open"] == 0
    worker.handle(withdraw)
    assert answers.messages[-1] == Withdrawn(("a",), ENCODER, (0,), arena)
    world.is_stuck = False
    is_confirmed_a_second_later(world, worker, answers, withdraw)


def is_confirmed_a_second_later(
    world: PlayedNixl, worker: EncoderWorker, answers: Answers, withdraw: Withdraw
) -> None:
    """Some of a write that is over may be buffered at the decoder."""
    worker.run_once()
    worker.handle(withdraw)
    assert answers.messages[-1] == Withdrawn(("a",), ENCODER, (0,), withdraw.arena)
    world.now += BUFFERED_SECONDS
    worker.run_once()
    worker.handle(withdraw)
    assert answers.messages[-1] == Withdrawn(("a",), ENCODER, (1,), withdraw.arena)


def test_a_worker_confirms_nothing_of_a_write_that_has_just_failed(
    world: PlayedNixl, checkpoints: Any
) -> None:
    world.is_stuck = True
    worker, answers, arena = encoding(checkpoints)
    world.gone.add(world.agents[0].name)
    worker.run_once()
    assert [type(message) for message in answers.messages] == [NotMapped, HiddenStates]
    withdraw = Withdraw("decoder-0", ("a",), (1,), arena)
    is_confirmed_a_second_later(world, worker, answers, withdraw)


def test_a_worker_does_not_take_a_decoder_for_its_last_life(
    world: PlayedNixl, checkpoints: Any
) -> None:
    """Writes to that one's arena say nothing of the tickets of this one's; and both have counted
    from 1."""
    world.is_stuck = True
    worker, answers, _ = encoding(checkpoints)
    world.now += WRITE_SECONDS + 1
    worker.run_once()
    worker.handle(Withdraw("decoder-0", ("a",), (1,), "of its next life"))
    assert answers.messages[-1] == Withdrawn(("a",), ENCODER, (1,), "of its next life")


def test_a_job_that_fails_names_the_arena_of_its_ticket(
    world: PlayedNixl, checkpoints: Any
) -> None:
    worker, answers, arena = encoding(checkpoints)
    place = Place(arena, 2, np.arange(4))
    job = EncodeJob("b", 4, "decoder-0", ("frontend",), place=place)
    worker._answers.fail_gone([job])
    assert (answers.messages[-1].ticket, answers.messages[-1].arena) == (2, arena)


def test_a_worker_sees_the_end_of_a_write_while_another_batch_runs(
    world: PlayedNixl, checkpoints: Any
) -> None:
    world.is_stuck = True
    worker, answers, _ = encoding(checkpoints)
    world.is_stuck = False
    rounds = iter(range(1000))

    class Running:
        """Behind a batch on a GPU that ends once the write before it was told of."""

        def query(self) -> bool:
            next(rounds)
            return bool(answers.messages)

    done: Any = Running()
    assert worker._wait(LaunchedBatch(batch_of([], torch.zeros(0, 1)), None, [], done))
    assert [type(message) for message in answers.messages] == [StatesWritten]


def test_a_loop_looks_more_and_more_seldom() -> None:
    now = 100.0
    departures = Departures(lambda jobs: None, lambda: now)
    assert departures.poll_timeout == IDLE_SECONDS
    departures._open.append(_Departed([], [lambda: False], since=100.0))
    assert departures.poll_timeout == POLL_SECONDS
    now = 100.01
    assert departures.poll_timeout == pytest.approx(0.001)
    now = 110.0
    assert departures.poll_timeout == IDLE_SECONDS
