"""Hidden states that go into a decoder's arena by NIXL: from the ask to the answer."""

import pytest
import torch
from arena_pair import CPU, WIDTH, Pair, address
from played_nixl import PlayedNixl

from antiphon.actors.arena_places import export_arena
from antiphon.actors.departures import Departures
from antiphon.actors.links import Links
from antiphon.actors.messages import NotMapped, StatesWritten
from antiphon.actors.rank_channel import RankAddress
from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.mapped import Handle
from antiphon.kv.transports.nixl import BUFFERED_SECONDS, WRITE_SECONDS


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> PlayedNixl:
    world = PlayedNixl()
    world.install(monkeypatch)
    return world


def test_a_job_ends_when_its_states_are_in_the_arena(world: PlayedNixl) -> None:
    world.is_stuck = True
    pair = Pair("nixl")
    assert pair.export.far == pair.export.ranks
    departures, ended, packed = pair.depart("a", "b")
    departures.check()
    assert (ended, pair.answers, bool(departures)) == ([], [], True)
    world.is_stuck = False
    departures.check()
    assert [job.key for job in ended] == ["a", "b"]
    assert not departures
    (written,) = pair.answers
    assert isinstance(written, StatesWritten)
    assert pair.decoder.places.written(written) == ["a", "b"]
    arena = pair.decoder.arena
    arena.adopt(["a", "b"], [arena.space.of("a"), arena.space.of("b")])
    assert torch.equal(arena.states[arena.rows(["a", "b"])], packed)


def test_ranks_of_all_nodes_are_written_by_nixl(world: PlayedNixl) -> None:
    """All of them, or none."""

    def arena() -> StateArena:
        return StateArena(4, WIDTH, torch.float32, CPU)

    def of_rank(handle: Handle | None) -> RankAddress:
        return RankAddress(*address("other").__reduce__()[1], arena=handle)  # type: ignore[misc]

    handles = [arena().register() for _ in range(2)]
    export = export_arena(arena(), Links("node"), list(map(of_rank, handles)), "nixl")
    assert export is not None
    assert export.far[1:] == tuple(handles)
    followers = [of_rank(handles[0]), of_rank(None)]
    assert export_arena(arena(), Links("node"), followers, "nixl") is None


def test_registered_memory_is_used_again(world: PlayedNixl) -> None:
    pair = Pair("nixl")
    for key in "abcd":
        departures, _, _ = pair.depart(key)
        assert not departures
        assert pair.decoder.places.written(pair.answers[-1]) == [key]
        pair.decoder.space.drop(key)
    encoder = world.agents[-1]
    assert len(encoder.registered) == 1


def test_registered_memory_of_several_sizes_is_used_again(world: PlayedNixl) -> None:
    pair = Pair("nixl")

    def done(*keys: str) -> None:
        for answer, key in zip(pair.answers[-len(keys) :], keys, strict=True):
            pair.decoder.places.written(answer)
            pair.decoder.space.drop(key)

    pair.depart("a", "b")
    pair.decoder.places.written(pair.answers[-1])
    for key in "ab":
        pair.decoder.space.drop(key)
    pair.queue("c")  # in the memory of two inputs
    departures, _, _ = pair.depart("d")
    departures.add([], pair.told)  # of "c", which was queued first
    done("c", "d")
    pair.depart("e")
    assert len(pair.answers) == 4
    assert len(world.agents[-1].registered) == 2


@pytest.mark.parametrize("problem", ["gone", "late"])
def test_states_that_could_not_be_written_come_as_messages(world: PlayedNixl, problem: str) -> None:
    """And so does all that follows, once the decoder has heard of it."""
    world.is_stuck = True
    pair = Pair("nixl")
    departures, ended, packed = pair.depart("a")
    if problem == "gone":
        world.gone.add(world.agents[0].name)
    else:
        world.now += WRITE_SECONDS + 1
    departures.check()
    assert [job.key for job in ended] == ["a"]
    refused, states = pair.answers
    assert isinstance(refused, NotMapped)
    assert isinstance(states, HiddenStates)
    assert torch.equal(states.packed, packed)
    assert refused.landing == ("a",)
    pair.outlets.check()
    world.now += BUFFERED_SECONDS
    pair.outlets.check()
    is_late = problem == "late"
    assert bool(world.agents[-1].peers) == is_late, "of a late write the end could not be seen"
    assert len(pair.answers) == (2 if is_late else 3)
    pair.decoder.places.not_mapped(refused)
    pair.encode("b")
    assert isinstance(pair.answers[-1], HiddenStates)


def test_states_come_as_messages_where_no_memory_can_be_registered(
    world: PlayedNixl, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair("nixl")

    def refuse(self: object, memory: torch.Tensor) -> None:
        raise RuntimeError("memlock")

    monkeypatch.setattr(type(world.agents[0]), "register_memory", refuse)
    packed = pair.encode("a")
    refused, states = pair.answers
    assert isinstance(refused, NotMapped)
    assert "memlock" in refused.reason
    assert isinstance(states, HiddenStates)
    assert torch.equal(states.packed, packed)


def test_a_batch_behind_one_that_failed_comes_as_a_message_too(world: PlayedNixl) -> None:
    pair = Pair("nixl")
    world.is_stuck = True
    first, _, _ = pair.depart("a")
    pair.queue("b")
    behind = pair.told
    world.gone.add(world.agents[0].name)
    first.check()
    Departures(lambda jobs: None).add([], behind)
    kinds = [type(answer) for answer in pair.answers]
    assert kinds == [NotMapped, HiddenStates, HiddenStates]
