"""What the host does for a step: the same for sequences of any length, and no loop over them.

Counted in bytecodes, which are the same on every machine; `antiphon.benchmarks.host_work` has
the microseconds.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from antiphon.benchmarks.host_work import HostWork

STEPS = 8


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
