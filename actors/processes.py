"""The ends of workers' processes: sure ones, also of a process that is stopped or hangs."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

KILL_SECONDS = 5.0  # for another node to end a process
RAY_SECONDS = 0.2  # for Ray to end a process; it gives a stopped one five seconds
SIGNAL_SECONDS = 2.0  # for the system to do so then


class Spot(NamedTuple):
    """Where a process runs. `born`: its start in the system's ticks; numbers are used again."""

    node: str
    pid: int
    born: float | None


async def end_process(handle: Any, spot: Spot | None) -> None:
    """Kills a worker's process, also one that is stopped or hangs in native code, and returns when
    it is gone, or when its node does not answer."""
    with contextlib.suppress(ray.exceptions.RayError):  # if Ray has seen its end already
        ray.kill(handle, no_restart=True)  # before our own signal, of which Ray would complain
    if spot is None:
        return
    if spot.node == ray.get_runtime_context().get_node_id():
        await end_local(spot.pid, spot.born)
    else:
        await _end_remote(spot)


async def _end_remote(spot: Spot) -> None:
    """As `end_local`, by a task on its node."""
    its_node = NodeAffinitySchedulingStrategy(spot.node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=its_node)(end_now)
    try:
        await asyncio.wait_for(task.remote(spot.pid, spot.born), KILL_SECONDS)
    except (ray.exceptions.RayError, TimeoutError) as error:
        logger.warning("node %s did not end process %d: %r", spot.node[:8], spot.pid, error)


def end_now(pid: int, born: float | None) -> None:
    """As `end_local`, for a task of Ray."""
    asyncio.run(end_local(pid, born))


async def end_local(pid: int, born: float | None) -> None:
    """Waits for the end of a process of this node that Ray was told to kill, and kills it if that
    takes long. `born`: its start, as `birth` gives it: the number may belong to another process by
    now."""
    began = time.monotonic()
    while birth(pid) == born and (waited := time.monotonic() - began) < SIGNAL_SECONDS:
        if waited > RAY_SECONDS:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.005)


def birth(pid: int) -> float | None:
    """When a process started, in the system's own ticks; None if it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if status[0] in "ZX" else float(status[19])


def own_error(failure: Any) -> Any:
    """What a call of Ray raised in its actor. Ray raises a subclass of its own class and ours."""
    return getattr(failure, "cause", failure)


def why_gone(failure: Exception) -> str:
    """What Ray says of the end of an actor, in one sentence and without its lecture."""
    reason = str(failure).strip().splitlines()[-1]
    return f"its process is gone: {reason.partition(' Some common causes')[0]}"
