"""What callers are told when a worker's process is gone."""

import asyncio
from typing import Any

import pytest
import ray.exceptions

from antiphon.actors.cluster import _ending

RAY_SAYS = (
    "The actor died because of an error raised in its creation task\n"
    "The actor is dead because its worker process has died. Worker exit detail: connection error "
    "code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer "
    "due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed."
)


class Gone:
    """Stands for a Ray actor whose method `watch` raises."""

    def __init__(self, error: Exception) -> None:
        self.watch, self.error = self, error

    def options(self, **_: Any) -> "Gone":
        return self

    async def remote(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            RAY_SAYS,
            "a worker process is gone: The actor is dead because its worker process has died. "
            "Worker exit detail: connection error code 2. End of file.",
        ),
        ("the node left", "a worker process is gone: the node left"),
    ],
)
def test_a_dead_process_is_one_sentence_without_a_lecture(message: str, told: str) -> None:
    assert asyncio.run(_ending(Gone(ray.exceptions.RayError(message)))) == told
