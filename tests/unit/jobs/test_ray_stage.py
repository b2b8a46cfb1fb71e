"""The actor of the stage in this process: an engine that dies comes back, one row gives up."""

import asyncio
from typing import Any

import pyarrow
import pytest
from paths import T5

from antiphon.config.errors import EngineDeadError, RequestFailed
from antiphon.jobs.entries import Defaults, Entry
from antiphon.jobs.ray_data import ATTEMPTS, AntiphonEngineProcessorConfig, EngineStage


class MortalEngine:
    """Dies of the text "poison", with all that run at that time."""

    def __init__(self) -> None:
        self.death = asyncio.Event()

    async def perform(self, entry: Entry) -> dict[str, Any]:
        if entry.prompt == "poison":
            await asyncio.sleep(0.01)
            self.death.set()
        elif entry.prompt == "bad":
            raise RequestFailed("of its own")
        if not self.death.is_set():
            with_death = asyncio.create_task(self.death.wait())
            await asyncio.wait([with_death], timeout=0.05)
            with_death.cancel()
        if self.death.is_set():
            raise EngineDeadError("the engine died")
        return {"text": f"echo of {entry.prompt}", "finish_reason": "stop"}

    async def close(self) -> None:
        pass


class Stage(EngineStage):
    def _start(self) -> None:
        self._engine = self._work = MortalEngine()  # type: ignore[assignment]
        self._speech, self._defaults = False, Defaults(False)
        self._starts += 1


def run(texts: list[str], **options: Any) -> list[dict[str, Any]]:
    config = AntiphonEngineProcessorConfig(model_source=str(T5), **options)

    async def main() -> pyarrow.Table:
        stage = Stage(config)
        try:
            (table,) = [
                out async for out in stage(pyarrow.table({"text": texts, "n": [1] * len(texts)}))
            ]
            assert stage._starts <= 1 + 2 * ATTEMPTS
            return table
        finally:
            await asyncio.to_thread(stage._thread.stop)

    return asyncio.run(main()).to_pylist()


def test_a_row_that_kills_the_engine_gives_up_alone() -> None:
    rows = run(["a", "poison", "b", "bad", "c"], should_continue_on_error=True)
    assert [row["text"] for row in rows] == ["echo of a", None, "echo of b", None, "echo of c"]
    assert rows[1]["error"] == "EngineDeadError: the engine died"
    assert rows[3]["error"] == "RequestFailed: of its own"
    assert {row["error"] for row in rows if row["text"]} == {""}


def test_without_leave_the_first_error_is_raised() -> None:
    with pytest.raises(RequestFailed, match="of its own"):
        run(["a", "bad"])
    assert [row["text"] for row in run(["a", "b"])] == ["echo of a", "echo of b"]
