"""Hidden states by key in the rows of one tensor, and what decoders do with them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import PlainEngine
from random_examples import examples

from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates

ROOM = 24
KEYS = st.sampled_from("abcdef")


def arena(num_tokens: int = ROOM) -> StateArena:
    return StateArena(num_tokens, 3, torch.float32, torch.device("cpu"))


def states(*keys: str, length: int = 2) -> HiddenStates:
    return HiddenStates(keys, (length,) * len(keys), torch.randn(length * len(keys), 3))


@examples(200)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.lists(KEYS, min_size=1, max_size=5, unique=True)),
            st.tuples(st.just("drop"), KEYS),
            st.tuples(st.just("read"), st.lists(KEYS, min_size=1, max_size=3, unique=True)),
        ),
        max_size=40,
    )
)
def test_states_are_what_was_put_last_and_rows_have_one_key(events: list[Any]) -> None:
    arena_, kept = arena(), {}
    for step, (kind, keys) in enumerate(events):
        if kind == "put":
            lengths = [1 + (step + i) % 5 for i in range(len(keys))]
            packed = torch.randn(sum(lengths), 3)
            others = sum(len(kept[key]) for key in kept if key not in keys)
            for key in keys:
                kept.pop(key, None)
            if others + sum(lengths) > ROOM:
                with pytest.raises(ValueError, match="room for"):
                    arena_.put(HiddenStates(tuple(keys), tuple(lengths), packed))
            else:
                arena_.put(HiddenStates(tuple(keys), tuple(lengths), packed))
                kept.update(zip(keys, packed.split(lengths), strict=True))
        elif kind == "drop":
            arena_.drop(keys)
            kept.pop(keys, None)
        elif present := [key for key in keys if key in kept]:
            rows = torch.from_numpy(arena_.rows(present))
            assert torch.equal(arena_.states[rows], torch.cat([kept[key] for key in present]))
        assert len(arena_) == len(kept)
        assert arena_.num_free == ROOM - sum(map(len, kept.values()))
        owned = np.concatenate([np.empty(0, np.int64), *(arena_.rows([key]) for key in kept)])
        assert sorted([*owned.tolist(), *arena_.space.free().tolist()]) == list(range(ROOM))


def test_a_batch_that_does_not_fit_leaves_nothing_behind() -> None:
    full = arena()
    full.put(kept := states("a", "b", length=5))
    for bad in (
        states("c", length=15),
        HiddenStates(("c", "d"), (1, 2), torch.zeros(2, 3)),
        HiddenStates(("c",), (2,), torch.zeros(2, 4)),
    ):
        with pytest.raises(ValueError, match="hidden states"):
            full.put(bad)
    assert (len(full), full.num_free) == (2, ROOM - 10)
    assert torch.equal(full.states[full.rows(["b"])[1:4]], kept.packed[6:9])


def test_a_batch_is_not_held_by_those_of_its_states_that_are_left() -> None:
    """A view of one key would hold the memory of all."""
    arena_ = arena()
    batch = states("a", "b")
    arena_.put(batch)
    batch.packed.zero_()
    assert arena_.states[arena_.rows(["a"])[:2]].abs().sum() > 0


def test_only_wanted_states_are_taken() -> None:
    batch = HiddenStates(("a", "b", "c"), (1, 2, 3), torch.arange(18.0).view(6, 3))
    assert batch.only(lambda key: True) is batch
    assert batch.only(lambda key: False).packed.shape == (0, 3)
    some = batch.only(lambda key: key != "b")
    assert (some.keys, some.lengths) == (("a", "c"), (1, 3))
    assert torch.equal(some.packed, batch.packed[[0, 3, 4, 5]])


@pytest.fixture(scope="module")
def engine(checkpoints: Any) -> PlainEngine:
    folder, _ = checkpoints("t5")
    # Cross KV of two texts, and hidden states of four.
    return PlainEngine(
        folder, max_num_seqs=2, max_model_len=16, max_encoder_len=16, kv_page_size=8,
        num_kv_pages=8, encode_ahead_tokens=64,
    )  # fmt: skip


def run(engine: PlainEngine, *texts: int) -> list[list[int]]:
    arrays = [np.full(14, 5 + text, np.int32) for text in texts]
    ids = [engine.submit(engine.request(array, [0], 6)) for array in arrays]
    engine.run()
    engine.step()
    encodes = engine.replica.scheduler.encodes
    assert encodes.tokens == 0
    assert len(engine.replica.runner.arena) == len(encodes.kept)
    assert encodes.kept.tokens <= encodes.kept.room
    return [engine.finished[id_].token_ids for id_ in ids]


def test_what_was_encoded_is_so_once_as_long_as_the_arena_has_room(engine: PlainEngine) -> None:
    counters = engine.replica.scheduler.counters
    first = run(engine, 0, 1, 2, 3)
    assert counters["encodes"] == 4
    assert run(engine, 0, 1, 2, 3) == first
    assert counters["encodes"] == 4
    assert counters["kept_states_hits"] >= 1, "their cross KV was all cached"
    assert run(engine, 4, 5, 6, 7, 8) != first
    assert counters["encodes"] == 9
    assert run(engine, 0) == first[:1]
    assert counters["encodes"] == 10, "the oldest states were to make room"


def test_states_that_come_twice_or_late_take_no_room(engine: PlainEngine) -> None:
    runner, replica = engine.replica.runner, engine.replica
    before = len(runner.arena)
    size = runner.arena.states.shape[1]
    for _ in range(2):
        replica.receive_hidden(HiddenStates(("nobody's",), (60,), torch.zeros(60, size)))
    engine.step()
    assert len(runner.arena) == before
