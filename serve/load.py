"""What the pools of each model have to do, for people to see."""

import asyncio
import logging
from typing import Any

from antiphon.config.errors import AntiphonError
from antiphon.engine.async_engine import AsyncEngine
from antiphon.serve.service import Service

logger = logging.getLogger(__name__)

NOTING_SECONDS = 5.0
STATS_SECONDS = 2.0  # for busy workers to answer
OF_DECODERS = ("open", "running", "kv_pages", "kv_pages_available")
OF_HIDDEN_STATES = ("hidden_state_pages", "hidden_state_pages_available")  # where they have pages


async def counters_of(engine: AsyncEngine) -> dict[str, int]:
    """The counters of its decoders; none if they do not answer in time."""
    try:
        async with asyncio.timeout(STATS_SECONDS):
            return await engine.stats()
    except (AntiphonError, TimeoutError):
        return {}


async def counters_by_model(service: Service) -> dict[str, dict[str, int]]:
    models = dict(service.models)
    counters = await asyncio.gather(*(counters_of(model.engine) for model in models.values()))
    return dict(zip(models, counters, strict=True))


async def note_workers(service: Service) -> None:
    """Notes the workers' present counters. One reading at a time, which all share who ask
    meanwhile: where sums that were read earlier are noted later, what was added in between would
    count twice; and workers that do not answer would keep one caller after the other waiting."""
    if service.noting is None or service.noting.done():
        service.noting = asyncio.create_task(_note_workers(service))
    await asyncio.shield(service.noting)  # who leaves does not end it for the others


async def _note_workers(service: Service) -> None:
    service.metrics.note_workers(await counters_by_model(service))


async def keep_noting(service: Service) -> None:
    """For ever: notes the workers' counters, for sinks that nobody asks for them. A reading that
    fails is not the last one."""
    while True:
        await asyncio.sleep(NOTING_SECONDS)
        try:
            await note_workers(service)
        except Exception:  # of a sink, whatever it is
            logger.exception("the workers' counters could not be noted")


async def load_of(service: Service) -> dict[str, Any]:
    models = {
        name: _pools(service.models[name].engine, own)
        for name, own in (await counters_by_model(service)).items()
        if name in service.models  # which is empty once the server stops
    }
    admission = service.admission
    return {"open_requests": admission.open, "limit": admission.limit, "models": models}


def _pools(engine: AsyncEngine, counters: dict[str, int]) -> dict[str, dict[str, int]]:
    router = engine.requests.router
    taking = [state for state in router.states if state.alive and not state.draining]
    encoders = [state.name for state in taking if state.role == "encoder"]
    decoders = [state.name for state in taking if state.role == "decoder"]
    waiting = sum(router.load_of(name) for name in encoders)
    of_decoders = {name: counters.get(name, 0) for name in OF_DECODERS}
    of_states = {name: counters[name] for name in OF_HIDDEN_STATES if name in counters}
    return {
        "encoder": {"workers": len(encoders), "waiting_tokens": round(waiting)},
        "decoder": {"workers": len(decoders), **of_decoders, **of_states},
    }
