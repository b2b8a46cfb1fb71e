"""Hidden states that reach a decoder in their encoder's process while they are still computed."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_engine import PlainEngine

from antiphon.actors.decoder_worker import DecoderWorker
from antiphon.actors.worker import IDLE_SECONDS, POLL_SECONDS
from antiphon.config.options import resolve
from antiphon.kv.handoff import HandoffBuffer, HiddenStates
from antiphon.scheduler.request import Incarnation


class InFlight:
    """Stands for an event on the device."""

    def __init__(self) -> None:
        self.over = False

    def query(self) -> bool:
        return self.over


@pytest.fixture
def engine(checkpoints: Any) -> PlainEngine:
    folder, _ = checkpoints("t5")
    engine = PlainEngine(folder, max_num_seqs=8, max_model_len=60, kv_page_size=8)
    engine.delay_encodes = True
    return engine


KEYS = st.sampled_from("abcdef")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.lists(KEYS, min_size=1, max_size=5, unique=True)),
            st.tuples(st.just("pop"), st.lists(KEYS, min_size=1, max_size=3, unique=True)),
            st.tuples(st.just("drop"), KEYS),
        ),
        max_size=40,
    )
)
def test_states_are_what_was_put_last_and_hold_little_beside(events: list[Any]) -> None:
    buffer, kept = HandoffBuffer(torch.device("cpu")), {}
    for step, (kind, keys) in enumerate(events):
        if kind == "put":
            lengths = [1 + (step + i) % 4 for i in range(len(keys))]
            packed = torch.randn(sum(lengths), 3)
            buffer.put(HiddenStates(tuple(keys), tuple(lengths), packed))
            kept.update(zip(keys, packed.split(lengths), strict=True))
        elif kind == "drop":
            buffer.drop(keys)
            kept.pop(keys, None)
        elif present := [key for key in keys if key in kept]:
            assert torch.equal(buffer.pop(present), torch.cat([kept.pop(key) for key in present]))
        assert len(buffer) == len(kept)
        held = {id(batch): len(batch.packed) for batch in buffer._batches.values()}
        assert sum(held.values()) <= 2 * sum(len(states) for states in kept.values())


def test_what_is_taken_at_once_is_not_copied_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = HandoffBuffer(torch.device("cpu"))
    buffer.put(HiddenStates(("a", "b", "c"), (2, 3, 1), torch.randn(6, 4)))
    copies, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts: copies.append(1) or cat(parts))
    buffer.pop(["b", "a", "c"])
    assert len(copies) == 1


def ask(engine: PlainEngine, *texts: list[int]) -> list[int]:
    return [engine.submit(engine.request(np.array(ids, np.int32), [0], 12)) for ids in texts]


def encode(engine: PlainEngine, event: Any) -> None:
    """All that was asked for, in one batch that is over when `event` is."""
    jobs, engine.unencoded = engine.unencoded, []
    encoded = engine.encoder.encode([media.payload for media in jobs])
    engine.replica.receive_hidden(
        HiddenStates(
            tuple(media.key for media in jobs), tuple(encoded.lengths), encoded.hidden, event
        )
    )


def running(engine: PlainEngine) -> int:
    return len(engine.replica.scheduler.batch)


def test_where_nothing_runs_a_single_input_need_not_be_computed(engine: PlainEngine) -> None:
    ask(engine, [5, 6, 7])
    engine.step()
    encode(engine, InFlight())
    engine.step()
    assert running(engine) == 1


def test_running_sequences_do_not_wait_for_an_encoder(engine: PlainEngine) -> None:
    ask(engine, [5, 6, 7])
    engine.step()
    encode(engine, None)
    engine.step()
    ask(engine, [8, 9])
    engine.step()
    event = InFlight()
    encode(engine, event)
    engine.step()
    assert running(engine) == 1
    assert not engine.replica.idle
    event.over = True
    engine.step()
    assert running(engine) == 2
    assert len(engine.run()) == 2


def test_nor_do_those_that_come_wait_for_a_whole_batch(engine: PlainEngine) -> None:
    ask(engine, [5, 6, 7], [8, 9])
    engine.step()
    event = InFlight()
    encode(engine, event)
    engine.step()
    assert running(engine) == 0
    assert not engine.replica.idle
    event.over = True
    engine.step()
    assert running(engine) == 2


def test_a_worker_that_waits_for_a_batch_does_not_spin(
    engine: PlainEngine, checkpoints: Any
) -> None:
    folder, _ = checkpoints("t5")
    worker = DecoderWorker(
        Incarnation("decoder-0", 0),
        engine.model,
        resolve(str(folder), {"device": "cpu", "num_kv_pages": 100, "kv_page_size": 8}),
        None,
    )
    worker.replica = engine.replica
    assert worker.poll_timeout == IDLE_SECONDS
    ask(engine, [5, 6, 7], [8, 9])
    assert worker.poll_timeout == 0
    engine.step()
    assert worker.poll_timeout == IDLE_SECONDS
    event = InFlight()
    encode(engine, event)
    assert worker.poll_timeout == POLL_SECONDS
    event.over = True
    engine.step()
    assert worker.poll_timeout == 0


def test_tokens_are_the_same(engine: PlainEngine, checkpoints: Any) -> None:
    folder, _ = checkpoints("t5")
    texts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    plain = PlainEngine(folder, max_num_seqs=8, max_model_len=60, kv_page_size=8)
    ask(plain, *texts)
    wanted = {id_: end.token_ids for id_, end in plain.run().items()}
    for text in texts:
        ask(engine, text)
        engine.step()
        event = InFlight()
        encode(engine, event)
        for _ in range(3):
            engine.step()
        event.over = True
    assert {id_: end.token_ids for id_, end in engine.run().items()} == wanted
