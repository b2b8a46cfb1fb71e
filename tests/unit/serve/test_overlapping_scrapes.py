"""Those who ask for metrics at the same time count nothing twice."""

import asyncio
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

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
    assert counted(service) == engine.steps == 6
