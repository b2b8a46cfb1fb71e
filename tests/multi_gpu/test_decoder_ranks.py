"""Decoder replicas of several processes: what one process gives, with graphs and without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_courses import Course, course, loses_a_rank, many_steps
from rank_scenarios import OPTIONS, PAGES, check_same_ends

from antiphon.benchmarks.rank_processes import RanksFailed
from antiphon.config.parallel import Parallel

KINDS = {"bart": "text", "llama": "decoder", "t5": "text", "whisper": "audio"}
LAYOUTS = [Parallel(2), Parallel(1, 2), Parallel(2, 2)]
Folder = Callable[[str], Path]
Runs = Callable[..., list[Any]]


def options(family: str, device: str, **more: Any) -> dict[str, Any]:
    return {
        **OPTIONS,
        "num_kv_pages": PAGES[KINDS[family]],
        "device": device,
        "dtype": "float32",
        **more,
    }


@pytest.fixture(scope="module")
def alone(device: str, run_ranks: Runs, folder_of: Folder) -> Callable[[str], Course]:
    """What one rank gives, by family."""
    known: dict[str, Course] = {}

    def get(family: str) -> Course:
        if family not in known:
            arguments = folder_of(family), KINDS[family], options(family, device)
            known[family] = run_ranks(Parallel(), course, *arguments)[0]
        return known[family]

    return get


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_ranks_give_what_one_gives(
    parallel: Parallel,
    family: str,
    device: str,
    run_ranks: Runs,
    folder_of: Folder,
    alone: Callable[[str], Course],
) -> None:
    """Requests are mixed, staggered and cancelled; pages run short, so that some are preempted."""
    for eager in (False, True) if device == "cuda" else (True,):  # CPUs have no graphs
        chosen = options(family, device, enforce_eager=eager)
        results = run_ranks(parallel, course, folder_of(family), KINDS[family], chosen)
        seen = results[parallel.leader]
        check_same_ends(seen.ends, alone(family).ends)
        assert seen.graphs is not eager


@pytest.mark.parametrize("steps_ahead", [2, 3])
@pytest.mark.parametrize("parallel", LAYOUTS[:2], ids=str)
def test_steps_further_ahead_change_nothing(
    parallel: Parallel,
    steps_ahead: int,
    device: str,
    run_ranks: Runs,
    folder_of: Folder,
    alone: Callable[[str], Course],
) -> None:
    chosen = options("t5", device, num_scheduler_steps=steps_ahead)
    results = run_ranks(parallel, course, folder_of("t5"), "text", chosen)
    check_same_ends(results[parallel.leader].ends, alone("t5").ends)


@pytest.mark.parametrize("parallel", LAYOUTS[:2], ids=str)
def test_memory_does_not_grow(
    parallel: Parallel, device: str, run_ranks: Runs, folder_of: Folder
) -> None:
    """On no rank, in 10,000 steps (on CPUs 600, where what an allocator keeps is most of it)."""
    marks = (1_000, 10_000) if device == "cuda" else (200, 600)
    chosen = options("t5", device)
    results = run_ranks(parallel, many_steps, folder_of("t5"), chosen, marks, limit=280.0)
    for rank, (early, late) in enumerate(results):
        allowed = 0 if device == "cuda" else 8 << 20
        assert late - early <= allowed, f"rank {rank}: {early} bytes, then {late}"


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "hangs"])
def test_a_rank_that_is_lost_is_not_waited_for(
    dies: bool, device: str, run_ranks: Runs, folder_of: Folder
) -> None:
    with pytest.raises(RanksFailed) as failure:
        run_ranks(
            Parallel(2),
            loses_a_rank,
            folder_of("t5"),
            options("t5", device, enforce_eager=True),
            dies,
            collective_timeout=5.0,
        )
    seen = failure.value
    if 0 in seen.results:
        name, seconds = seen.results[0]
        assert name == "RankError"
        assert seconds < 5.0 + 10.0
    else:  # NCCL's watchdog ends the process, which the supervisor notices
        assert device == "cuda"
        assert "its process ended" in seen.reasons[0]
    assert seen.reasons[1] == f"its process ended: {1 if dies else 2}"
