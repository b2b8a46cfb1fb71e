"""Results as references to objects in Ray's store, for other tasks and actors of the cluster."""

import asyncio
from typing import Any

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig


def check_object_store(config: EngineConfig) -> None:
    """Raises ConfigurationError for an engine without Ray."""
    if not config.workers.ray:
        raise ConfigurationError(
            "object_refs=True gives references to objects in Ray's store: leave out ray=False"
        )


async def put(value: Any) -> Any:
    """A `ray.ObjectRef` of `value`, which this process owns: it is there while this process, and
    the reference, live."""
    import ray  # not above: it takes seconds, and an engine without it has no use for it

    return await asyncio.to_thread(ray.put, value)
