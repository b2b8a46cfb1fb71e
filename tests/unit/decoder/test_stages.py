"""Stages of a decoder: three of them, further ahead, and all at work at once."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine
from rank_scenarios import OPTIONS, PAGES, check_course, check_same_ends, play
from ranked_engine import RankedEngine

from antiphon.config.parallel import Parallel
from antiphon.decoder.rank_commands import Launch

SECONDS = 0.02  # that a stage takes for each row


@pytest.fixture(scope="module")
def folder(checkpoints: Any) -> Path:
    path: Path = checkpoints("bart")[0]
    return path


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_steps_ahead_within_a_lane_change_nothing(folder: Path, depth: int) -> None:
    """The first stage gets tokens that the host does not know yet."""
    options = {**OPTIONS, "num_kv_pages": PAGES["text"], "num_scheduler_steps": depth}
    alone = PlainEngine(folder, **options)
    expected = play(alone, "text")
    with RankedEngine(folder, Parallel(1, 2), **options) as engine:
        check_same_ends(play(engine, "text"), expected)
        check_course(engine)
    lanes = {command.plan.lane for command in engine.commands if isinstance(command, Launch)}
    assert lanes == {0, 1}


@pytest.mark.parametrize("parallel", [Parallel(1, 3), Parallel(1, 2, layers=(1, 2))], ids=repr)
def test_three_stages_and_given_layers_change_nothing(folder: Path, parallel: Parallel) -> None:
    options = {**OPTIONS, "num_kv_pages": PAGES["text"]}
    expected = play(PlainEngine(folder, **options), "text")
    with RankedEngine(folder, parallel, **options) as engine:
        check_same_ends(play(engine, "text"), expected)
        runners = [thread.loaded.result().runner for thread in engine.followers]
        layers = [len(runner.pool.layers) for runner in (*runners, engine.replica.runner)]
    assert layers == list(parallel.layers or (1, 1, 1))


def test_stages_work_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lane for each stage, one computes while the other does. (On a busy machine not
    always.)"""
    busy: dict[int, list[tuple[float, float]]] = {0: [], 1: []}  # by stage: begin and end

    def slow_down(runner: Any) -> None:
        run = runner._run_layers

        def slow(inputs: Any, *rest: Any) -> Any:
            began = time.monotonic()
            time.sleep(SECONDS * inputs.shape.sequences)
            busy[runner.ranks.stage].append((began, time.monotonic()))
            return run(inputs, *rest)

        monkeypatch.setattr(runner, "_run_layers", slow)

    with RankedEngine(folder, Parallel(1, 2), max_num_seqs=8, max_model_len=40) as engine:
        for number in range(8):
            text = np.full(4, 5 + number, np.int32)
            engine.submit(engine.request(text, [2], 8))
        engine.step()  # their states arrive
        for runner in (
            engine.replica.runner,
            *(t.loaded.result().runner for t in engine.followers),
        ):
            slow_down(runner)
        engine.run()
    both = sum(
        max(0.0, min(end, other_end) - max(begin, other_begin))
        for begin, end in busy[0]
        for other_begin, other_end in busy[1]
    )
    assert both > 0.3 * sum(end - begin for begin, end in busy[0])
