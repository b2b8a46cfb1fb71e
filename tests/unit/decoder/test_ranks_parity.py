"""A decoder replica of several ranks gives what one rank gives, whatever its requests do."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from plain_engine import PlainEngine
from rank_scenarios import OPTIONS, PAGES, check_course, check_same_ends, play
from ranked_engine import RankedEngine
from tiny_decoders import DECODERS
from tiny_models import FAMILIES

from antiphon.config.parallel import Parallel
from antiphon.decoder.rank_commands import Launch
from antiphon.scheduler.request import Finished

Folder = Callable[[str], Path]
QUICK = ("bart", "llama", "t5", "whisper")
OTHERS = [family for family in (*FAMILIES, *DECODERS) if family not in QUICK]


def kind_of(family: str) -> str:
    if family in DECODERS:
        return "decoder"
    return "audio" if family == "whisper" else "text"


@pytest.fixture(scope="module")
def alone(folder_of: Folder) -> Callable[[str], dict[int, Finished]]:
    """What one rank gives, by family."""
    ends: dict[str, dict[int, Finished]] = {}

    def get(family: str) -> dict[int, Finished]:
        if family not in ends:
            engine = PlainEngine(folder_of(family), **options(family))
            ends[family] = play(engine, kind_of(family))
            check_course(engine)
        return ends[family]

    return get


def options(family: str) -> dict[str, Any]:
    return {**OPTIONS, "num_kv_pages": PAGES[kind_of(family)]}


LAYOUTS = [Parallel(2), Parallel(3), Parallel(1, 2), Parallel(2, 2)]
QUICK_CASES = list(zip(("t5", "whisper", "llama", "bart"), LAYOUTS, strict=True))
CASES = [
    pytest.param(*case, marks=() if case in QUICK_CASES else pytest.mark.slow)
    for case in product((*QUICK, *OTHERS), LAYOUTS)
]


@pytest.mark.parametrize(("family", "parallel"), CASES, ids=str)
def test_several_ranks_give_what_one_gives(
    family: str,
    parallel: Parallel,
    folder_of: Folder,
    alone: Callable[[str], dict[int, Finished]],
) -> None:
    with RankedEngine(folder_of(family), parallel, **options(family)) as engine:
        check_same_ends(play(engine, kind_of(family)), alone(family))
        check_course(engine)
    launched = [command.plan for command in engine.commands if isinstance(command, Launch)]
    assert [plan.number for plan in launched] == list(range(1, len(launched) + 1))
    check_same_state(engine)
    check_shares(engine)


def check_same_state(engine: RankedEngine) -> None:
    """Every rank knows the same page tables and hidden states, and those of a stage the same
    tokens. (Of several stages, the first and the last one know tokens, at different times.)"""
    leader = engine.replica.runner
    for thread in engine.followers:
        runner = thread.loaded.result().runner
        if engine.parallel.pipeline == 1:
            assert runner.slots.tokens.equal(leader.slots.tokens)
        assert (runner.tables.host == leader.tables.host).all()
        assert list(runner.arena._rows) == list(leader.arena._rows)
        for key, rows in leader.arena._rows.items():
            assert (runner.arena._rows[key] == rows).all()


def check_shares(engine: RankedEngine) -> None:
    """No rank holds what another one has to itself."""
    half, runners = engine.model.decoder, [engine.replica.runner]
    runners += [thread.loaded.result().runner for thread in engine.followers]
    heads = [runner.pool.layers[0].shape[3] for runner in runners]
    stages, ranks = engine.parallel.pipeline, engine.parallel.tensor
    assert sum(heads) == stages * max(half.num_kv_heads, ranks)
    assert sum(runner.causal.spec.num_heads for runner in runners) == stages * half.num_heads
