"""Ranks that cannot do the same end their replica, and agree on what they start with."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranked_engine import RankedEngine
from thread_group import make_ranks

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.config.sampling import SamplingParams
from antiphon.decoder import room
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import Target
from antiphon.runtime.ranks import RankError

SMALL: dict[str, Any] = {"max_num_seqs": 2, "max_model_len": 16, "kv_page_size": 4}


@pytest.fixture(scope="module")
def folder(checkpoints: Any) -> Path:
    path: Path = checkpoints("bart")[0]
    return path


def submit(engine: RankedEngine) -> None:
    text = np.arange(5, 9, dtype=np.int32)
    engine.submit(engine.request(text, [2], 5, params=SamplingParams(temperature=0.0)))


def run(engine: RankedEngine) -> None:
    """A request, to its end."""
    with engine:
        submit(engine)
        engine.run()


def fail(*_: object) -> None:
    raise RuntimeError("no memory")


def test_a_step_that_fails_on_the_leader_ends_the_replica(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RankedEngine(folder, Parallel(2), **SMALL)
    monkeypatch.setattr(engine.replica.runner, "launch", fail)
    with pytest.raises(RankError, match="step 1 failed: RuntimeError: no memory"):
        run(engine)
    assert engine.finished == {}


def test_a_step_that_fails_on_another_rank_ends_the_replica(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RankedEngine(folder, Parallel(3), **SMALL)
    monkeypatch.setattr(engine.followers[1].loaded.result().runner, "launch", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        run(engine)


def test_settings_that_one_rank_alone_refuses_end_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RankedEngine(folder, Parallel(2), **SMALL)
    monkeypatch.setattr(engine.followers[0].loaded.result().runner.slots, "_set", fail)
    with pytest.raises(RankError, match="before step 2, this rank refused the settings of slots"):
        run(engine)


@pytest.mark.parametrize("parallel", [Parallel(2), Parallel(1, 2)], ids=str)
@pytest.mark.parametrize("number", range(6))
def test_no_refused_setting_is_overlooked(
    folder: Path, parallel: Parallel, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever admission one rank alone refuses, while states arrive between steps."""
    engine = RankedEngine(folder, parallel, **{**SMALL, "max_num_seqs": 6})
    slots = engine.followers[0].loaded.result().runner.slots
    admit, calls = slots._set, iter(range(100))
    monkeypatch.setattr(slots, "_set", lambda one: fail() if next(calls) == number else admit(one))

    def run_all() -> None:
        with engine:
            for first in range(6):
                text = np.arange(5 + first, 9 + first, dtype=np.int32)
                params = SamplingParams(temperature=0.0)
                engine.submit(engine.request(text, [2], 9, params=params))
                engine.step()
                engine.step()
            engine.run()
            submit(engine)  # or nobody would hear of the last one
            engine.run()

    with pytest.raises(RankError, match="this rank refused the settings of slots"):
        run_all()


def test_one_rank_sends_no_commands(folder: Path) -> None:
    engine = RankedEngine(folder, Parallel(), **SMALL)
    run(engine)
    assert engine.commands == []
    assert engine.followers == []


@pytest.mark.parametrize("pages", [[20, 9, 30], [5, 40, 40]])
def test_all_ranks_have_the_pages_of_the_one_with_the_fewest(
    folder: Path, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five pages are too few for one sequence: then every rank says so, and none waits."""
    config = resolve(
        str(folder), {"device": "cpu", **SMALL, "max_num_seqs": 16, "max_encoder_len": 16}
    )
    model = ModelConfig.load(config.model)
    target = Target.resolve(config.model, model.raw, model.family)
    half = model.decoder
    page_bytes = 2 * half.num_layers * 4 * half.num_kv_heads * half.head_dim * 4
    mine = threading.local()
    monkeypatch.setattr(room, "_budget", lambda *_: mine.pages * page_bytes)
    results: dict[int, int | str] = {}

    def count(number: int) -> None:
        mine.pages = pages[number]
        try:
            ranks = every[number]
            results[number] = room.page_counts(model, config, target, ranks=ranks).kv
        except ConfigurationError as error:
            results[number] = str(error)

    every = make_ranks(Parallel(3))
    threads = [threading.Thread(target=count, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    if min(pages) >= 8:
        assert results == dict.fromkeys(range(3), min(pages))
    else:
        assert all("one full sequence needs 8" in str(results[number]) for number in range(3))
        assert "(on another rank: 5 pages)" in str(results[1])
