"""What the host does for a step: the same for sequences of any length, no loop over them, and no
more than it did.

Counted in bytecodes, which are the same on every machine; `antiphon.benchmarks.host_work` has
the microseconds.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from antiphon.benchmarks.admissions import SMALL, ReplicaWork, SchedulerWork
from antiphon.benchmarks.host_work import HostWork
from antiphon.benchmarks.shapes import PUBLISHED, write_checkpoint

STEPS = 8
WARM_UP, MEASURED = 64, 96  # steps of a load in which every other step has a new sequence
# Bytecodes of a step, a tenth above what was counted. Lower them with the counts: a host-bound
# decoder is as slow as these are high.
STEP_CEILING, SCHEDULER_CEILING, REPLICA_CEILING = 1650, 4900, 8700


def bytecodes(run: Callable[[], object]) -> int:
    """How many of Python are executed in `run`."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def steps(sequences: int, length: int) -> int:
    stages = HostWork(sequences, length).stages()

    def run() -> None:
        for _ in range(STEPS):
            for stage in stages.values():
                stage()

    return bytecodes(run)


def test_it_is_flat_in_the_length_of_sequences() -> None:
    assert abs(steps(128, 3000) - steps(128, 8)) < 8 * STEPS


def test_it_has_no_loop_over_rows() -> None:
    assert abs(steps(256, 8) - steps(16, 8)) < 8 * STEPS


def test_a_loop_over_rows_would_be_seen() -> None:
    assert bytecodes(lambda: [row for row in range(256)]) > 2 * 256  # noqa: C416


def test_a_step_costs_no_more_than_it_did() -> None:
    assert steps(128, 8) < STEP_CEILING * STEPS


@pytest.mark.parametrize("part", ["scheduler", "replica"])
def test_sequences_that_come_and_go_cost_no_more_than_they_did(part: str, tmp_path: Path) -> None:
    """The replica: without the layers and the sampling, which graphs hold."""
    work: SchedulerWork | ReplicaWork
    if part == "scheduler":
        work, ceiling = SchedulerWork(16), SCHEDULER_CEILING
        scheduler = work.scheduler
    else:
        write_checkpoint({**PUBLISHED["bart-large-cnn"], **SMALL}, tmp_path)
        work, ceiling = ReplicaWork(16, tmp_path), REPLICA_CEILING
        scheduler = work.replica.scheduler
    for _ in range(WARM_UP):
        work.step()

    def run() -> None:
        for _ in range(MEASURED):
            work.step()

    before, count = scheduler.counters["done"], bytecodes(run)
    assert scheduler.counters["done"] - before >= MEASURED // 2
    assert count < ceiling * MEASURED
