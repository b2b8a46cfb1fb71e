"""The actor of the stage in this process: an engine that dies comes back, one row gives up."""

import asyncio
import datetime
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pytest
from paths import T5
from ray.data.extensions import ArrowTensorArray

from antiphon.config.errors import EngineDeadError, RequestFailed
from antiphon.jobs.entries import Defaults, Entry, entry_of
from antiphon.jobs.ray_data import AntiphonEngineProcessorConfig, EngineStage
from antiphon.jobs.restarts import ATTEMPTS, EngineNotRestartedError, RestartingEngine


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
        elif entry.prompt == "odd":
            raise TypeError("not foreseen")
        if not self.death.is_set():
            with_death = asyncio.create_task(self.death.wait())
            await asyncio.wait([with_death], timeout=0.05)
            with_death.cancel()
        if self.death.is_set():
            raise EngineDeadError("the engine died")
        return {
            "text": f"echo of {entry.prompt}",
            "finish_reason": "stop",
            "fields": entry.fields,
        }

    async def close(self) -> None:
        pass


class Restarting(RestartingEngine):
    def _start(self) -> None:
        self._engine = self._work = MortalEngine()  # type: ignore[assignment]
        self.speech = False
        self._starts += 1


class OnceOnly(Restarting):
    def _start(self) -> None:
        if self._starts:
            raise RuntimeError("CUDA error: an illegal memory access")
        super()._start()


def run(texts: list[str], **options: Any) -> list[dict[str, Any]]:
    rows = run_batches([pyarrow.table({"text": texts, "n": [1] * len(texts)})], **options)
    return rows.to_pylist()


def run_batches(
    batches: list[pyarrow.Table], kind: type[Restarting] = Restarting, **options: Any
) -> pyarrow.Table:
    """All at a time."""
    config = AntiphonEngineProcessorConfig(model_source=str(T5), **options)

    async def one(stage: EngineStage, batch: pyarrow.Table) -> pyarrow.Table:
        (table,) = [out async for out in stage(batch)]
        return table

    async def main() -> list[pyarrow.Table]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("antiphon.jobs.ray_data.RestartingEngine", kind)
            stage = EngineStage(config)
        try:
            tables = await asyncio.gather(*(one(stage, batch) for batch in batches))
            killers = sum(table["text"].null_count for table in tables)
            assert stage._engine._starts <= 1 + max(killers, 1) * ATTEMPTS
            return tables
        finally:
            await asyncio.to_thread(stage._engine._thread.stop)

    return pyarrow.concat_tables(asyncio.run(main()))


def test_a_row_that_kills_the_engine_gives_up_alone() -> None:
    rows = run(["a", "poison", "b", "bad", "c"], should_continue_on_error=True)
    assert [row["text"] for row in rows] == ["echo of a", None, "echo of b", None, "echo of c"]
    assert rows[1]["error"] == "EngineDeadError: the engine died"
    assert rows[3]["error"] == "RequestFailed: of its own"
    assert {row["error"] for row in rows if row["text"]} == {""}


def test_engines_that_are_started_again_fetch_with_the_same_threads() -> None:
    """Which are not left behind by each that dies."""

    class Speaking(MortalEngine):
        inputs = SimpleNamespace(audio=SimpleNamespace(sampling_rate=16_000))

        async def transcribe(self, audio: Any, **options: Any) -> Any:
            pools.append(engines[0]._work._threads)
            raise EngineDeadError("the engine died")

    async def started() -> Any:
        return Speaking()

    with fsspec.open("memory://restarts/a.wav", "wb") as file:
        file.write(b"sound")
    pools, engines = list[Any](), list[RestartingEngine]()

    async def main() -> None:
        engine = RestartingEngine(started, lambda: None)
        engines.append(engine)
        try:
            with pytest.raises(EngineDeadError):
                await engine.perform(Entry(1, audio="memory://restarts/a.wav"))
            assert engine._starts == ATTEMPTS
        finally:
            await asyncio.to_thread(engine._thread.stop)

    asyncio.run(main())
    assert len(pools) == ATTEMPTS
    assert all(pool is pools[0] for pool in pools)


def test_without_leave_the_first_error_is_raised() -> None:
    with pytest.raises(RequestFailed, match="of its own"):
        run(["a", "bad"])
    assert [row["text"] for row in run(["a", "b"])] == ["echo of a", "echo of b"]


def test_rows_that_kill_the_engine_harm_no_others() -> None:
    """More of them than a row has attempts, while other batches come."""
    texts = [f"{number}" if number % 3 else "poison" for number in range(15)]
    batches = [pyarrow.table({"text": texts[first : first + 3]}) for first in range(0, 15, 3)]
    rows = run_batches(batches, should_continue_on_error=True).to_pylist()
    expected = [None if text == "poison" else f"echo of {text}" for text in texts]
    assert [row["text"] for row in rows] == expected


def test_an_engine_that_cannot_be_started_again_ends_the_dataset() -> None:
    batch = pyarrow.table({"text": ["a", "poison"]})
    with pytest.raises(EngineNotRestartedError, match="again: RuntimeError: CUDA error"):
        run_batches([batch], OnceOnly, should_continue_on_error=True)


def test_other_columns_may_be_of_any_type() -> None:
    times = [datetime.datetime(2026, 1, 2), datetime.datetime(2026, 1, 3)]
    batch = pyarrow.table(
        {
            "text": ["a", "odd"],
            "when": pyarrow.array(times, pyarrow.timestamp("ns")),
            "vector": ArrowTensorArray.from_numpy(np.ones((2, 3), np.float32)),
        }
    )
    table = run_batches([batch], should_continue_on_error=True)
    assert table["text"].to_pylist() == ["echo of a", None]
    assert table["error"].to_pylist() == ["", "TypeError: not foreseen"]
    for name in ("when", "vector"):
        assert table[name].to_pylist()[0] is not None
        assert table.schema.field(name).type == batch.schema.field(name).type
    with pytest.raises(TypeError, match="not foreseen"):
        run_batches([batch])


def test_samples_may_be_an_array() -> None:
    samples = np.zeros(5, np.float32)
    assert entry_of(0, {"audio": samples}, Defaults(True)).audio is samples
