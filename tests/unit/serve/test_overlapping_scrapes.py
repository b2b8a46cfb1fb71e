"""Those who ask for metrics at the same time count nothing twice."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from antiphon.serve import load
from antiphon.serve.load import load_of, note_workers
from antiphon.serve.metric_names import PREFIX
from antiphon.serve.service import ServedModel, Service
from antiphon.serve.settings import ServerSettings

STEPS = "decoder_steps_total"


class Busy:
    """An engine that makes a step whenever it is asked, and whose later answers come sooner."""

    requests = SimpleNamespace(router=SimpleNamespace(states=[]))

    def __init__(self) -> None:
        self.steps = 0

    async def stats(self) -> dict[str, int]:
        self.steps += 1
        counters = {"steps": self.steps}
        await asyncio.sleep(0.05 / self.steps)
        return counters


def counted(service: Service) -> float:
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(service.metrics.text().decode())
        for sample in family.samples
        if sample.name == PREFIX + STEPS
    )
    return value


def test_overlapping_readings_count_once() -> None:
    async def scenario() -> tuple[Service, Busy]:
        engine: Any = Busy()
        service = Service(ServerSettings(), {})
        service.models["m"] = ServedModel("m", engine)
        await asyncio.gather(*(note_workers(service) for _ in range(4)), load_of(service))
        await note_workers(service)
        return service, engine

    service, engine = asyncio.run(scenario())
    assert counted(service) == engine.steps == 3  # one for all four, one for the load


def test_workers_that_hang_keep_nobody_waiting_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Hanging(Busy):
        async def stats(self) -> dict[str, int]:
            asked.append(True)
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    async def scenario() -> float:
        engine: Any = Hanging()
        service = Service(ServerSettings(), {})
        service.models["m"] = ServedModel("m", engine)
        began = time.monotonic()
        scrapes = [asyncio.create_task(note_workers(service)) for _ in range(5)]
        await asyncio.sleep(0.05)
        scrapes.pop(0).cancel()  # that one's client leaves; the others have their answer
        await asyncio.gather(*scrapes)
        return time.monotonic() - began

    monkeypatch.setattr(load, "STATS_SECONDS", 0.2)
    assert 0.2 <= asyncio.run(scenario()) < 0.39
    assert len(asked) == 1
