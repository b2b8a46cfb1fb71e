"""How all replicas of a server learn at once that it stops.

Ray Serve tells replicas something new by an update, and gives requests to none that it updates:
with one replica, newcomers would wait instead of being told to come again.
"""

import asyncio
import secrets

import ray
from ray.exceptions import RayActorError

from antiphon.actors.blueprint import NAMESPACE


class StopSignal:
    """Of one server: an actor that replicas wait at. It ends with the process that makes it."""

    def __init__(self) -> None:
        self.name = f"serve-stop-{secrets.token_hex(6)}"
        actor = ray.remote(num_cpus=0)(_Waiting)
        self._actor = actor.options(name=self.name, namespace=NAMESPACE).remote()

    def give(self) -> None:
        """Everyone who waits is told, and so is who comes later."""
        ray.get(self._actor.give.remote())

    def close(self) -> None:
        ray.kill(self._actor)


class _Waiting:
    def __init__(self) -> None:
        self._given = asyncio.Event()

    async def give(self) -> None:
        self._given.set()

    async def wait(self) -> None:
        await self._given.wait()


async def given(name: str) -> None:
    """Returns once the signal of that name is given, or who would give it is gone."""
    try:
        await ray.get_actor(name, namespace=NAMESPACE).wait.remote()
    except (ValueError, RayActorError):
        return
