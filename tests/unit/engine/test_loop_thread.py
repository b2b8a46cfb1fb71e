"""The event loop's thread serves every caller, whatever one of them raises in it."""

import sys
from collections.abc import Iterator

import pytest

from antiphon.engine.loop_thread import LoopThread


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.stop()


async def ends_the_program() -> None:
    sys.exit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


async def answer() -> int:
    return 42


@pytest.mark.parametrize(
    ("call", "error"), [(ends_the_program, SystemExit), (interrupts, KeyboardInterrupt)]
)
def test_a_call_that_would_end_the_loop_gets_its_error_and_others_go_on(
    thread: LoopThread, call: object, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        thread.run(call())  # type: ignore[operator]
    assert thread.run(answer()) == 42
