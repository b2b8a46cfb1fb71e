"""How all replicas of a server learn at once that it stops.

Ray Serve tells replicas something new by an update, and gives requests to none that it updates:
with one replica, newcomers would wait instead of being told to come again.
"""

import asyncio
import logging
import secrets

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from antiphon.actors.blueprint import NAMESPACE

logger = logging.getLogger(__name__)

GIVE_SECONDS = 5.0
AGAIN_SECONDS = 1.0  # after an error, until a replica waits again


class StopSignal:
    """Of one server: an actor that replicas wait at. It ends with the process that makes it, on
    whose node it runs, and is started again if it dies before."""

    def __init__(self) -> None:
        self.name = f"serve-stop-{secrets.token_hex(6)}"
        this_node = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = ray.remote(num_cpus=0, max_restarts=-1)(_Waiting)
        self._actor = actor.options(
            name=self.name, namespace=NAMESPACE, scheduling_strategy=this_node
        ).remote()

    def give(self) -> None:
        """Everyone who waits is told, and so is who comes later. Where that fails, the log says so:
        a server that stops must go on with it."""
        try:
            ray.get(self._actor.give.remote(), timeout=GIVE_SECONDS)
        except RayError as error:
            logger.warning("replicas could not be told to turn newcomers away: %s", error)

    def close(self) -> None:
        ray.kill(self._actor)


class _Waiting:
    def __init__(self) -> None:
        self._given = asyncio.Event()

    async def give(self) -> None:
        self._given.set()

    async def wait(self) -> None:
        await self._given.wait()


def is_gone(name: str) -> bool:
    """Whether the signal of that name is, for good: with the process that made it."""
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return True
    return False


async def wait_for_signal(name: str) -> None:
    """Returns once the signal of that name is given, and for no other reason: its actor may die
    while the server goes on."""
    while True:
        try:
            return await ray.get_actor(name, namespace=NAMESPACE).wait.remote()
        except (ValueError, RayError) as error:  # ValueError: there is none of that name now
            logger.debug("waiting again for the signal to stop: %s", error)
        await asyncio.sleep(AGAIN_SECONDS)
