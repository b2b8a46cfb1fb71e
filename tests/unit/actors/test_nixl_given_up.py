"""Writes by NIXL that were given up and may still land: their rows are nobody else's meanwhile."""

import pytest
import torch
from arena_pair import ENCODER, OTHER, WIDTH, Pair
from played_nixl import PlayedNixl

from antiphon.actors.arena_places import GRACE_SECONDS
from antiphon.actors.departures import Departures
from antiphon.actors.messages import Encode, EncodeJob, NotMapped
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.nixl import BUFFERED_SECONDS, WRITE_SECONDS


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> PlayedNixl:
    world = PlayedNixl()
    world.install(monkeypatch)
    return world


def given_up(pair: Pair, world: PlayedNixl) -> torch.Tensor:
    """The write of "a" is stuck; its states have come as a message, and nobody wants them now."""
    world.is_stuck = True
    departures, ended, packed = pair.depart("a")
    world.now += WRITE_SECONDS + 1
    departures.check()
    assert [job.key for job in ended] == ["a"]
    refused, states = pair.answers
    pair.decoder.places.not_mapped(refused)
    pair.decoder.arena.put(states)
    pair.decoder.arena.drop("a")
    pair.decoder.now += 1000.0
    assert pair.decoder.late == {ENCODER: ("a",)}
    return packed


def tell(pair: Pair) -> list[tuple[str, ...]]:
    """The decoder hears of writes that have landed since. Returns those that may land, each time
    that it did."""
    before = len(pair.answers)
    pair.outlets.check()
    told = [answer for answer in pair.answers[before:] if isinstance(answer, NotMapped)]
    for message in told:
        pair.decoder.places.not_mapped(message)
    return [message.landing for message in told]


def test_rows_of_a_write_that_was_given_up_are_in_quarantine(world: PlayedNixl) -> None:
    """Until the write is over. It lands in rows that still have the states of its key."""
    pair = Pair("nixl")
    packed = given_up(pair, world)
    decoder, arena = pair.decoder, pair.decoder.arena
    assert decoder.places.counters == {"quarantined_hidden_states": 4}
    assert (decoder.space.num_free, decoder.space.num_blocked) == (4, 4)
    other = torch.full((4, WIDTH), 7.0)
    arena.put(HiddenStates(("b",), (4,), other))
    with pytest.raises(ValueError, match="room for 0"):
        arena.put(HiddenStates(("c",), (4,), other))
    world.now += 1000.0
    assert tell(pair) == [], "it is not over"
    assert pair.outlets.may_land(pair.export.name) == {"a"}
    world.is_stuck = False
    assert tell(pair) == [], "some of it may be buffered at the decoder"
    assert torch.equal(arena.states[arena.rows(["b"])], other)
    arena.put(HiddenStates(("a",), (4,), packed))  # into its rows of before
    arena.drop("a")
    assert world.agents[-1].peers
    world.now += BUFFERED_SECONDS
    assert decoder.space.num_blocked == 4
    assert tell(pair) == [()]
    assert pair.outlets.may_land(pair.export.name) == set()
    assert world.agents[-1].peers == set()
    assert decoder.late == {}
    assert decoder.space.num_free == 4
    assert decoder.places.counters == {"quarantined_hidden_states": 0}


def test_rows_of_a_write_that_has_failed_are_in_quarantine_for_a_second(world: PlayedNixl) -> None:
    """Also if the decoder withdraws them meanwhile."""
    pair = Pair("nixl")
    world.is_stuck = True
    departures, _, _ = pair.depart("a")
    world.gone.add(world.agents[0].name)
    departures.check()
    refused, _ = pair.answers
    assert refused.landing == ("a",)
    pair.decoder.places.not_mapped(refused)
    assert pair.decoder.places.num_quarantined == 4
    pair.outlets.check()
    assert pair.outlets.may_land(pair.export.name) == {"a"}, "it would not be confirmed"
    world.now += BUFFERED_SECONDS
    assert tell(pair) == [()]
    assert pair.outlets.may_land(pair.export.name) == set()
    assert pair.decoder.places.num_quarantined == 0
    assert not pair.decoder.space.is_written("a")


def test_quarantine_ends_with_the_process_of_the_encoder(world: PlayedNixl) -> None:
    pair = Pair("nixl")
    given_up(pair, world)
    pair.decoder.gone(2)
    assert pair.decoder.space.num_blocked == 4
    pair.decoder.now += GRACE_SECONDS
    assert pair.decoder.late == {}
    assert pair.decoder.space.num_free == 8
    assert pair.decoder.places.num_quarantined == 0


def test_an_encoder_that_is_gone_quarantines_nothing_by_its_last_words(world: PlayedNixl) -> None:
    """What another one is asked to write has nothing to do with it."""
    pair = Pair("nixl")
    given_up(pair, world)
    pair.decoder.gone(2)
    pair.decoder.places.not_mapped(pair.answers[0])
    pair.decoder.now += GRACE_SECONDS
    assert pair.decoder.late == {}
    assert pair.decoder.ask("a", OTHER) is not None
    assert pair.decoder.late == {}
    assert pair.decoder.places.num_quarantined == 0


def two_posted(pair: Pair, world: PlayedNixl) -> tuple[Departures, list[EncodeJob], torch.Tensor]:
    """The write of "a" is given up; that of "b", which was posted later, is not. As
    `Pair.depart("b")`."""
    world.is_stuck = True
    first, _, _ = pair.depart("a")
    world.now += 1
    second = pair.depart("b")
    world.now += WRITE_SECONDS
    first.check()
    refused = pair.answers[0]
    assert refused.landing == ("b", "a")
    pair.decoder.places.not_mapped(refused)
    assert pair.decoder.places.num_quarantined == 8
    return second


def test_a_write_behind_one_that_was_given_up_may_arrive(world: PlayedNixl) -> None:
    """Both were posted; the later one is well, and its rows are its own until it says so."""
    pair = Pair("nixl")
    second, ended, packed = two_posted(pair, world)
    pair.decoder.now += GRACE_SECONDS
    assert pair.decoder.late == {}
    world.is_stuck = False
    second.check()
    assert [job.key for job in ended] == ["b"]
    assert pair.decoder.places.written(pair.answers[-1]) == ["b"]
    arena = pair.decoder.arena
    arena.adopt(["b"], [arena.space.of("b")])
    assert torch.equal(arena.states[arena.rows(["b"])], packed)
    assert pair.decoder.late == {}
    assert pair.decoder.places.num_quarantined == 4


def test_the_decoder_hears_of_a_write_that_failed_behind_one_that_was_given_up(
    world: PlayedNixl,
) -> None:
    pair = Pair("nixl")
    second, ended, _ = two_posted(pair, world)
    world.is_stuck = False
    assert tell(pair) == []
    world.now += BUFFERED_SECONDS
    assert tell(pair) == [("b",)]
    assert pair.decoder.places.num_quarantined == 4
    world.gone.add(world.agents[0].name)
    second.check()
    assert [job.key for job in ended] == ["b"]
    assert tell(pair) == []
    world.now += BUFFERED_SECONDS
    assert tell(pair) == [()]
    assert pair.decoder.places.num_quarantined == 0
    assert not pair.decoder.space.is_written("b")


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
    world.now += BUFFERED_SECONDS
    pair.outlets.check()
    assert pair.outlets._given_up == []
    assert pair.answers == []


def test_the_next_life_of_a_decoder_is_not_taken_for_its_last_one(world: PlayedNixl) -> None:
    """Both ask for the same content; each has an arena of its own, and writes stuck there."""
    last, this = Pair("nixl"), Pair("nixl")
    given_up(last, world)
    this.outlets = last.outlets
    admitted = this.outlets.admit(
        Encode(
            [EncodeJob("a", 4, "decoder-0", ("f",), place=this.decoder.ask("a"))],
            False,
            this.export,
            2,
        )
    )
    assert admitted[0].place is not None
    assert this.outlets.may_land(last.export.name) == {"a"}
    assert this.outlets.may_land(this.export.name) == set()
    this.decoder.places.not_mapped(last.answers[0])
    assert this.decoder.places.num_quarantined == 0
    assert this.decoder.ask("b") is not None, "its arena is mapped"


def test_nothing_new_is_written_where_writes_may_land_that_were_given_up(
    world: PlayedNixl,
) -> None:
    """News of the death of a decoder's last life may come late, when the next one has asked. What
    it asks for again goes another way: else a ticket would free the rows of both writes."""
    world.is_stuck = True
    pair = Pair("nixl")
    pair.depart("a")
    pair.outlets.unmap_gone([])

    def admitted() -> EncodeJob:
        job = EncodeJob("a", 4, "decoder-0", ("f",), place=pair.decoder.ask("a"))
        return pair.outlets.admit(Encode([job], arena=pair.export, epoch=2))[0]

    assert admitted().place is None
    world.is_stuck = False
    pair.outlets.check()
    assert admitted().place is None
    world.now += BUFFERED_SECONDS
    pair.outlets.check()
    assert admitted().place is not None
