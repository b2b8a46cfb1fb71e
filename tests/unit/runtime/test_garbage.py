"""What is loaded at the start is not visited by later garbage collections, in our own processes."""

import gc
from collections.abc import Iterator

import pytest

from antiphon.actors.address import Host
from antiphon.actors.base_actor import WorkerActor
from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.decoder_actor import DecoderActor
from antiphon.actors.encoder_actor import EncoderActor
from antiphon.runtime.garbage import frozen_heap


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    assert not gc.get_freeze_count()
    yield
    gc.unfreeze()


def visited() -> int:
    """Objects that a full collection visits."""
    return len(gc.get_objects())


@pytest.mark.parametrize("actor", [EncoderActor, DecoderActor, ColocatedActor])
def test_actors_freeze_their_heap_before_they_take_messages(
    actor: type[WorkerActor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "here", lambda: Host("127.0.0.1", "this one"))
    before, listening = visited(), actor()
    listening.listen()
    assert visited() < before / 10
    listening.close()


def test_commands_freeze_the_heap_while_their_engine_runs() -> None:
    before = visited()
    with frozen_heap():
        assert visited() < before / 10
    assert not gc.get_freeze_count()
