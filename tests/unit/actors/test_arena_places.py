"""Places in a decoder's arena: who may write them, from the ask to the end of an encoder."""

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from arena_pair import CPU, ENCODER, OTHER, WIDTH, Decoder, Pair, address, batch_of

from antiphon.actors.arena_places import (
    ASK_AGAIN_SECONDS,
    GRACE_SECONDS,
    export_arena,
)
from antiphon.actors.links import Links
from antiphon.actors.member_messages import Member
from antiphon.actors.messages import (
    EncodeJob,
    Members,
    NotMapped,
    StatesWritten,
)
from antiphon.actors.rank_channel import RankAddress
from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.scheduler.encodes import EncodeLedger
from antiphon.scheduler.request import Incarnation, Media


def test_an_encoder_that_hangs_keeps_its_rows_until_its_process_is_gone() -> None:
    decoder = Decoder()
    decoder.ask("a")
    decoder.places.note([Member("encoder-0", "encoder", 2, None, alive=False, gone=1)])
    decoder.space.drop("a")
    decoder.now += 1000.0
    assert decoder.late == {ENCODER: ("a",)}
    assert decoder.space.num_blocked == 4
    decoder.gone(2)
    assert decoder.late == {}
    assert decoder.space.num_blocked == 4, "its GPU may still write"
    decoder.now += GRACE_SECONDS
    assert decoder.late == {}
    assert decoder.space.num_free == 8


def test_an_encoder_that_is_no_member_any_more_is_gone() -> None:
    decoder = Decoder()
    decoder.gone(1)
    decoder.ask("a")
    decoder.space.drop("a")
    decoder.places.note([])
    decoder.now += GRACE_SECONDS
    assert decoder.late == {}
    assert decoder.space.num_free == 8


def test_the_next_life_of_an_encoder_keeps_what_it_was_asked_for() -> None:
    decoder = Decoder()
    decoder.ask("a", Incarnation("encoder-0", 3))
    decoder.gone(2)
    decoder.now += GRACE_SECONDS
    decoder.space.drop("a")
    assert decoder.late == {Incarnation("encoder-0", 3): ("a",)}
    assert decoder.space.num_blocked == 4


def test_the_next_life_of_an_encoder_says_nothing_of_its_last_one() -> None:
    """That one's process may not be gone."""
    decoder, later = Decoder(), Incarnation("encoder-0", 3)
    decoder.ask("a")
    decoder.ask("b", later)
    decoder.places.not_mapped(NotMapped("arena", "no link", later))
    assert decoder.space.is_written("a")
    assert not decoder.space.is_written("b")


def test_what_nobody_wants_is_withdrawn_until_that_is_confirmed() -> None:
    decoder = Decoder()
    first = decoder.ask("a")
    second = decoder.ask("a")
    assert decoder.late == {}, "it is wanted"
    decoder.space.drop("a")
    assert decoder.late == {ENCODER: ("a",)}
    assert decoder.places.tickets(["a", "b"], ENCODER) == (second.ticket, 0)
    assert decoder.late == {}
    decoder.now += ASK_AGAIN_SECONDS
    assert decoder.late == {ENCODER: ("a",)}
    decoder.places.answered(["a"], [first.ticket], ENCODER, "arena")
    decoder.places.answered(["a"], [second.ticket], OTHER, "arena")
    decoder.places.answered(["a"], [second.ticket], None, "arena")
    decoder.places.answered(["a"], [99], ENCODER, "that of an earlier life of this decoder")
    assert decoder.space.num_blocked == 4
    decoder.places.answered(["a"], [second.ticket], ENCODER, "arena")
    assert decoder.space.num_free == 8


def test_only_what_was_asked_of_an_encoder_is_taken_from_it() -> None:
    decoder = Decoder()
    place = decoder.ask("a")
    tickets = (place.ticket,)
    for wrong in (
        StatesWritten("another", ("a",), tickets, ENCODER),
        StatesWritten("arena", ("a",), tickets, OTHER),
        StatesWritten("arena", ("b",), tickets, ENCODER),
    ):
        assert decoder.places.written(wrong) == []
    right = StatesWritten("arena", ("a",), tickets, ENCODER)
    assert decoder.places.written(right) == ["a"]
    assert decoder.places.written(right) == []


def test_a_full_arena_gives_no_place() -> None:
    decoder = Decoder()
    assert decoder.ask("a", tokens=6) is not None
    assert decoder.ask("b") is None
    decoder.space.drop("a")
    assert decoder.ask("b") is None


# ---------------------------------------------------------------------- both sides


def test_states_are_in_the_arena_when_the_encoder_says_so() -> None:
    pair = Pair()
    packed = pair.encode("a", "b")
    (written,) = pair.answers
    assert pair.decoder.places.written(written) == ["a", "b"]
    arena = pair.decoder.arena
    arena.adopt(["a", "b"], [arena.space.of("a"), arena.space.of("b")])
    assert torch.equal(arena.states[arena.rows(["a", "b"])], packed)


@pytest.mark.parametrize("asked", [{"epoch": 1}, {"encoder": ENCODER, "tokens": 3}])
def test_states_without_a_place_that_fits_go_another_way(asked: Any) -> None:
    """Asked of an earlier life, or of another length."""
    pair = Pair()
    packed = pair.encode("a", **asked)
    (states,) = pair.answers
    assert isinstance(states, HiddenStates)
    assert torch.equal(states.packed, packed)


def test_part_of_a_batch_has_a_place() -> None:
    pair = Pair()
    packed = pair.encode("a", "b", "c")  # the arena has room for two
    written, states = pair.answers
    assert (written.keys, states.keys) == (("a", "b"), ("c",))
    assert torch.equal(states.packed, packed[8:])


def test_an_arena_that_cannot_be_mapped_is_told_once() -> None:
    pair = Pair()
    closed = msgspec.structs.replace(pair.export.ranks[0], descriptor=10**6)
    pair.export = ArenaExport("elsewhere", (closed,), 8, WIDTH, "float32")
    pair.decoder.places.export = pair.export
    pair.encode("a")
    refused, states = pair.answers
    assert isinstance(refused, NotMapped)
    assert "cannot be opened" in refused.reason
    assert isinstance(states, HiddenStates)
    pair.decoder.places.not_mapped(refused)
    assert pair.decoder.ask("b") is None
    pair.decoder.space.drop("a")
    assert pair.decoder.space.num_free == 8
    pair.encode("b")
    assert len(pair.answers) == 3


def test_the_arena_of_a_decoder_that_has_ended_is_let_go() -> None:
    pair = Pair()
    pair.encode("a")
    memory = pair.outlets._mapped["decoder-0"].arena
    alive = Member("decoder-0", "decoder", 1, address())
    pair.outlets.unmap_gone(Members([alive]).members)
    assert memory._shared
    pair.outlets.unmap_gone([])
    assert not memory._shared
    jobs = [EncodeJob("b", 4, "decoder-0", ("f",), place=pair.decoder.ask("b"))]
    pair.outlets.queue(batch_of(jobs, torch.zeros(4, WIDTH)))[0].computed()
    assert isinstance(pair.answers[-1], HiddenStates)


def test_arenas_are_shared_where_encoders_can_reach_all_of_them() -> None:
    def arena() -> StateArena:
        return StateArena(4, WIDTH, torch.bfloat16, CPU)

    assert export_arena(arena(), Links(""), ()) is None
    assert export_arena(arena(), Links("node", {"encoder-0": None}), ()) is None  # type: ignore[dict-item]
    assert export_arena(StateArena(0, WIDTH, torch.float32, CPU), Links("node"), ()) is None
    assert export_arena(arena(), Links("node"), [address()]) is None
    of_rank = RankAddress(*address().__reduce__()[1], arena=arena().export())  # type: ignore[misc]
    export = export_arena(arena(), Links("node"), [of_rank])
    assert export is not None
    assert (len(export.ranks), export.num_rows, export.dtype) == (2, 4, "bfloat16")
    assert export_arena(arena(), Links("other"), [of_rank]) is None


def test_rows_of_all_ranks_are_written() -> None:
    arenas = [StateArena(8, WIDTH, torch.float32, CPU) for _ in range(3)]
    export = ArenaExport("arena", tuple(a.export() for a in arenas), 8, WIDTH, "float32")
    pair = Pair()
    pair.export, pair.decoder = export, Decoder(arenas[0], export)
    packed = pair.encode("a")
    rows = torch.from_numpy(np.asarray(pair.decoder.space.of("a")))
    for arena in arenas:
        assert torch.equal(arena.states[rows], packed)


def test_what_is_asked_for_has_room_though_an_encoder_may_still_write_other_states() -> None:
    """Under load an encoder is asked a second time, and answers the first time."""
    decoder, counters = Decoder(), Counter[str]()
    ledger = EncodeLedger(8, 60.0, lambda: decoder.now, counters)
    ledger.set_encoders({ENCODER.name: ENCODER.epoch})

    def done(key: str, *tickets: int) -> None:
        assert decoder.places.answered([key], tickets, ENCODER, "arena") == [key]
        ledger.arrive(key, decoder.space.is_written(key))  # and nobody waits for it

    def make_room() -> None:
        for key in ledger.pop_unwanted():
            decoder.space.drop(key)
        ledger.blocked = decoder.space.num_blocked

    places = {}
    for key in "ab":
        ledger.ask(Media(key, "text", 4), "")
        places[key] = decoder.ask(key)
    again = decoder.ask("a")
    done("a", places["a"].ticket)
    done("b", places["b"].ticket)
    make_room()
    assert "a" not in ledger.kept
    assert "b" in ledger.kept
    assert not ledger.allows([Media("c", "text", 8)])
    assert ledger.allows([Media("c", "text", 4)])
    ledger.ask(Media("c", "text", 4), "")
    make_room()
    assert decoder.space.take("c", 4) is not None
    decoder.places.answered(["a"], [again.ticket], ENCODER, "arena")
    make_room()
    assert ledger.allows([Media("d", "text", 4)])
    assert decoder.space.num_free == 4
