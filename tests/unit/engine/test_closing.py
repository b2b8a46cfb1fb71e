"""A close ends the workers, whatever else fails meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from paths import EXAMPLES

from antiphon import AsyncEngine
from antiphon.engine import life


class Workers:
    def __init__(self) -> None:
        self.closed = 0

    def detach(self) -> None:
        raise OSError("a socket is gone")

    def close(self) -> None:
        self.closed += 1


async def _close(workers: Any) -> None:
    engine = AsyncEngine(str(EXAMPLES / "t5_numbers" / "model"), ray=False)
    engine.preparation.start()
    engine.requests.dispatcher.workers = workers
    with pytest.raises(OSError, match="a socket is gone"):
        await engine.close()
    await engine.close()  # which waits for what the first one began


async def _drop(workers: Any) -> None:
    with pytest.raises(OSError, match="a socket is gone"):
        life._end(workers)


@pytest.mark.parametrize("end", [_close, _drop])
def test_workers_that_can_not_be_left_in_order_are_closed(end: Callable[[Any], Any]) -> None:
    workers = Workers()
    asyncio.run(end(workers))
    assert workers.closed == 1
