"""Writes by NIXL that were given up and may still land: their rows are nobody else's meanwhile."""

import pytest
import torch
from arena_pair import ENCODER, WIDTH, Pair
from played_nixl import PlayedNixl

from antiphon.actors.arena_places import GRACE_SECONDS
from antiphon.actors.messages import Encode, EncodeJob, NotMapped
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports import nixl


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> PlayedNixl:
    world = PlayedNixl()
    world.install(monkeypatch)
    return world


def given_up(pair: Pair, world: PlayedNixl, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The write of "a" is stuck; its states have come as a message, and nobody wants them now."""
    world.is_stuck = True
    departures, ended, packed = pair.depart("a")
    monkeypatch.setattr(nixl, "WRITE_SECONDS", -1.0)
    departures.check()
    assert [job.key for job in ended] == ["a"]
    refused, states = pair.answers
    pair.decoder.places.not_mapped(refused)
    pair.decoder.arena.put(states)
    pair.decoder.arena.drop("a")
    pair.decoder.now += 1000.0
    assert pair.decoder.late == {ENCODER: ("a",)}
    return packed


def test_rows_of_a_write_that_was_given_up_are_in_quarantine(
    world: PlayedNixl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the write is over. It lands in rows that still have the states of its key."""
    pair = Pair("nixl")
    packed = given_up(pair, world, monkeypatch)
    decoder, arena = pair.decoder, pair.decoder.arena
    assert decoder.places.counters == {"quarantined_hidden_states": 4}
    assert (decoder.space.num_free, decoder.space.num_blocked) == (4, 4)
    other = torch.full((4, WIDTH), 7.0)
    arena.put(HiddenStates(("b",), (4,), other))
    with pytest.raises(ValueError, match="room for 0"):
        arena.put(HiddenStates(("c",), (4,), other))
    pair.outlets.check()
    assert pair.outlets.may_land("decoder-0") == {"a"}
    assert len(pair.answers) == 2, "it is not over"
    world.is_stuck = False
    pair.outlets.check()
    assert torch.equal(arena.states[arena.rows(["b"])], other)
    arena.put(HiddenStates(("a",), (4,), packed))  # into its rows of before
    arena.drop("a")
    over = pair.answers[-1]
    assert isinstance(over, NotMapped)
    assert over.landing == {}
    assert pair.outlets.may_land("decoder-0") == set()
    assert world.agents[-1].peers == set()
    decoder.places.not_mapped(over)
    assert decoder.space.num_blocked == 4, "some of it may be buffered here"
    decoder.now += GRACE_SECONDS
    assert decoder.late == {}
    assert decoder.space.num_free == 4
    assert decoder.places.counters == {"quarantined_hidden_states": 0}


def test_quarantine_ends_with_the_process_of_the_encoder(
    world: PlayedNixl, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair("nixl")
    given_up(pair, world, monkeypatch)
    pair.decoder.gone(2)
    assert pair.decoder.space.num_blocked == 4
    pair.decoder.now += GRACE_SECONDS
    assert pair.decoder.late == {}
    assert pair.decoder.space.num_free == 8
    assert pair.decoder.places.num_quarantined == 0


def test_a_write_behind_one_that_was_given_up_may_arrive(
    world: PlayedNixl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were posted; the later one is well, and its rows are its own until it says so."""
    world.is_stuck = True
    pair = Pair("nixl")
    first, _, _ = pair.depart("a")
    second, ended, packed = pair.depart("b")
    monkeypatch.setattr(nixl, "WRITE_SECONDS", -1.0)
    first.check()
    refused = pair.answers[0]
    assert refused.landing == {"a": 1, "b": 2}
    pair.decoder.places.not_mapped(refused)
    pair.decoder.now += GRACE_SECONDS
    assert pair.decoder.late == {}
    monkeypatch.setattr(nixl, "WRITE_SECONDS", 30.0)
    world.is_stuck = False
    second.check()
    assert [job.key for job in ended] == ["b"]
    assert pair.decoder.places.written(pair.answers[-1]) == ["b"]
    arena = pair.decoder.arena
    arena.adopt(["b"], [arena.space.of("b")])
    assert torch.equal(arena.states[arena.rows(["b"])], packed)


@pytest.mark.parametrize("told_by", ["supervisor", "decoder"])
def test_writes_to_a_decoder_that_has_ended_are_not_waited_for(
    world: PlayedNixl, told_by: str
) -> None:
    """Its next life may ask at once for what its last one was waiting for."""
    world.is_stuck = True
    pair = Pair("nixl")
    departures, ended, _ = pair.depart("a")
    if told_by == "supervisor":
        pair.outlets.unmap_gone([])
    else:
        job = EncodeJob("a", 4, "decoder-0", ("f",))
        pair.outlets.admit(Encode([job], arena=Pair("nixl").export, epoch=2))
    departures.check()
    assert [job.key for job in ended] == ["a"]
    assert pair.answers == []
    world.is_stuck = False
    pair.outlets.check()
    assert pair.outlets._given_up == []
