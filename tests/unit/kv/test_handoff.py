"""Hidden states that reach a decoder in their encoder's process while they are still computed."""

from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine

from antiphon.actors.decoder_worker import DecoderWorker
from antiphon.actors.links import Links
from antiphon.actors.worker import BEGIN_SECONDS, IDLE_SECONDS, POLL_SECONDS
from antiphon.config.options import resolve
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.intake import ASKED_AT_ONCE
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


@pytest.fixture
def worker(engine: PlainEngine, checkpoints: Any) -> DecoderWorker:
    """With the replica of `engine`."""
    folder, _ = checkpoints("t5")
    worker = DecoderWorker(
        Incarnation("decoder-0", 0),
        engine.model,
        resolve(str(folder), {"device": "cpu", "num_kv_pages": 100, "kv_page_size": 8}),
        None,
    )
    worker.replica = engine.replica
    return worker


def test_an_encoder_in_this_process_begins_before_it_is_asked_for_more(
    engine: PlainEngine, worker: DecoderWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(engine, *([5, 6 + number] for number in range(ASKED_AT_ONCE + 2)))
    engine.step()
    assert len(engine.unencoded) == ASKED_AT_ONCE
    assert worker.poll_timeout == 0
    worker._set_links(Links("", {"encoder-0": worker}), None)
    assert worker.poll_timeout == BEGIN_SECONDS
    with monkeypatch.context() as patch:  # states that come without a message
        patch.setattr(engine.replica, "incoming", ["states"])
        assert worker.poll_timeout == POLL_SECONDS
    encode(engine, None)
    engine.step()
    assert running(engine) > 0
    assert worker.poll_timeout == 0


def test_a_worker_that_waits_for_a_batch_does_not_spin(
    engine: PlainEngine, worker: DecoderWorker
) -> None:
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
