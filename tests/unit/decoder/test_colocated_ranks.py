"""Colocated replicas of several ranks: each encodes a share of a batch, all have all of it."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colocated_ranks import ColocatedRanks
from plain_engine import PlainEngine
from rank_scenarios import OPTIONS, PAGES, check_course, check_same_ends, play
from thread_group import make_ranks

from antiphon.config.parallel import Parallel
from antiphon.decoder.rank_commands import CollectStates, PutStates
from antiphon.kv.batch_share import Shelf
from antiphon.runtime.ranks import RankError, Ranks
from antiphon.scheduler.request import RequestState

LAYOUTS = [Parallel(2), Parallel(3), Parallel(1, 2), Parallel(2, 2)]
QUICK = [("t5", LAYOUTS[0]), ("whisper", LAYOUTS[3])]
SMALL: dict[str, Any] = {"max_num_seqs": 4, "max_model_len": 24, "kv_page_size": 4}


def layouts() -> list[Any]:
    every = [(family, layout) for family in ("bart", "t5", "whisper") for layout in LAYOUTS]
    return [
        pytest.param(
            *case, id=f"{case[0]} {case[1]}", marks=() if case in QUICK else pytest.mark.slow
        )
        for case in every
    ]


@pytest.mark.parametrize(("family", "parallel"), layouts())
def test_they_give_what_one_rank_gives(family: str, parallel: Parallel, checkpoints: Any) -> None:
    """Some requests are cancelled, some preempted; encoder and decoder ranks take turns freely."""
    folder: Path = checkpoints(family)[0]
    kind = "audio" if family == "whisper" else "text"
    options = {**OPTIONS, "num_kv_pages": PAGES[kind]}
    alone = PlainEngine(folder, **options)
    expected = play(alone, kind)
    with ColocatedRanks(folder, parallel, **options) as engine:
        check_same_ends(play(engine, kind), expected)
        check_course(engine)
        arenas = [engine.replica.runner.arena]
        arenas += [thread.loaded.result().runner.arena for thread in engine.followers]
    assert not any(isinstance(command, PutStates) for command in engine.commands)
    assert {frozenset(arena._rows) for arena in arenas} == {frozenset(arenas[0]._rows)}
    assert all(len(shares) == parallel.num_ranks for shares in engine.shares)


def submit(engine: PlainEngine, count: int) -> list[int]:
    return [
        engine.submit(engine.request(np.full(5, 5 + number, np.int32), [2], 6))
        for number in range(count)
    ]


def test_every_rank_encodes_its_share(checkpoints: Any) -> None:
    with ColocatedRanks(checkpoints("bart")[0], Parallel(2), **SMALL) as engine:
        submit(engine, 4)
        engine.run()
    assert engine.shares == [(10, 10)]


def test_a_rank_whose_encoder_is_late_is_waited_for(checkpoints: Any) -> None:
    with ColocatedRanks(checkpoints("bart")[0], Parallel(2), **SMALL) as engine:
        (late,) = engine.encoders
        late.begin.clear()
        threading.Timer(0.2, late.begin.set).start()
        began = time.monotonic()
        submit(engine, 2)
        assert {end.state for end in engine.run().values()} == {RequestState.DONE}
        assert time.monotonic() - began > 0.2


def test_a_batch_that_comes_twice_is_not_exchanged_again(checkpoints: Any) -> None:
    """And the next one is not taken for it."""
    folder = checkpoints("bart")[0]
    with ColocatedRanks(folder, Parallel(2), **SMALL) as engine:
        engine.delay_encodes = True
        submit(engine, 2)
        engine.step()
        batch = list(engine.unencoded)
        for _ in range(2):
            engine.unencoded = list(batch)
            engine.run_encoders()
        engine.delay_encodes = False
        submit(engine, 3)
        ends = engine.run()
    collected = [command for command in engine.commands if isinstance(command, CollectStates)]
    assert [len(command.wanted) for command in collected] == [2, 0, 1]
    alone = PlainEngine(folder, **SMALL)
    submit(alone, 2)
    submit(alone, 3)
    check_same_ends(ends, alone.run())


def test_a_batch_that_cannot_be_taken_in_fails_its_requests_and_the_next_one_is_taken(
    checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise ValueError("no room")

    folder = checkpoints("bart")[0]
    with ColocatedRanks(folder, Parallel(2), **SMALL) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine.replica.runner.arena.space, "take", full)
            submit(engine, 2)
            engine.run()
        engine.step()
        ends = dict(engine.finished)
        assert {end.state for end in ends.values()} == {RequestState.FAILED}
        assert {end.error for end in ends.values()} == {
            "its hidden states could not be taken in: ValueError: no room"
        }
        engine.finished.clear()
        submit(engine, 2)
        assert {end.state for end in engine.run().values()} == {RequestState.DONE}


def test_an_encoder_that_fails_on_one_rank_ends_the_replica(
    checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    def run() -> None:
        with ColocatedRanks(checkpoints("bart")[0], Parallel(2), **SMALL) as engine:
            for thread in engine.followers:
                thread.loaded.result()._shelf._timeout = 0.2
            monkeypatch.setattr(engine.encoders[0].follower.runner, "_compute", fail)
            submit(engine, 2)
            engine.run()

    with pytest.raises(RankError, match="an encoder batch failed: RuntimeError: no memory"):
        run()


def test_shares_of_another_batch_are_noticed() -> None:
    shelf = Shelf(0.05)
    shelf.put(torch.zeros(1, 2), None)
    with pytest.raises(RankError, match="batch 0 came where batch 1 was due"):
        shelf.take(1)
    with pytest.raises(RankError, match=r"did not come to batch 1 within 0\.05 s"):
        shelf.take(1)


def test_an_encoder_beside_a_decoder_exchanges_nothing(checkpoints: Any) -> None:
    """So no collective call of one half can wait for one of the other."""
    with ColocatedRanks(checkpoints("t5")[0], Parallel(2), **SMALL) as engine:
        submit(engine, 3)
        engine.run()
        for runner in (engine.encoder, *(thread.follower.runner for thread in engine.encoders)):
            assert runner is not None
            assert not runner.ranks.exchanges
            runner.ranks.check_same("the shapes of their graphs", runner, torch.device("cpu"))
            with pytest.raises(AssertionError, match="exchange nothing"):
                runner.ranks.tensor.all_reduce(torch.zeros(1))


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_encoders_are_led_where_decoders_are(parallel: Parallel) -> None:
    every = [(ranks, Ranks.beside(ranks)) for ranks in make_ranks(parallel)]
    assert [one.is_leader for one, _ in every] == [beside.is_leader for _, beside in every]
    assert sorted(beside.rank for _, beside in every) == list(range(parallel.num_ranks))
