"""What is loaded at the start is not visited by later garbage collections, in our own processes."""

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.actors import colocated_actor, decoder_actor
from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.decoder_actor import DecoderActor
from antiphon.actors.encoder_actor import EncoderActor
from antiphon.runtime.garbage import frozen_heap


class IdleWorker:
    """Stands for a loaded worker."""

    index = 0

    def connect(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    assert not gc.get_freeze_count()
    yield
    gc.unfreeze()


def visited() -> int:
    """Objects that a full collection visits."""
    return len(gc.get_objects())


def loaded(actor: Any) -> Any:
    actor.encoder = actor.decoder = IdleWorker()
    actor._listen = lambda: ("tcp://", b"")
    return actor


def test_an_encoder_actor_freezes_its_heap() -> None:
    before = visited()
    loaded(EncoderActor()).connect([])
    assert visited() < before / 10


@pytest.mark.parametrize("actor", [DecoderActor, ColocatedActor])
def test_actors_with_a_decoder_freeze_their_heap(
    actor: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (decoder_actor, colocated_actor):
        monkeypatch.setattr(module, "OutputSender", lambda *_: SimpleNamespace(send=None))
    before = visited()
    loaded(actor()).connect([], "tcp://127.0.0.1:1", b"")
    assert visited() < before / 10


def test_workers_in_the_process_of_a_user_leave_its_collector_alone() -> None:
    loaded(ColocatedActor()).start(lambda _: None)
    assert not gc.get_freeze_count()


def test_commands_freeze_the_heap_while_their_engine_runs() -> None:
    before = visited()
    with frozen_heap():
        assert visited() < before / 10
    assert not gc.get_freeze_count()
