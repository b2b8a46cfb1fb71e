"""What it takes to start one worker of an engine.

The supervisor and the engine that starts it both use this. Neither needs torch for it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from antiphon.actors.placement import Placement
from antiphon.actors.scaling import Bounds
from antiphon.actors.worker_process import WorkerProcess
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.scheduler.request import Incarnation

NAMESPACE = "antiphon"  # of supervisors' names, whatever the namespaces of the programs
GPU_HANG_SECONDS = 2.0  # its loop only queues work there
CPU_HANG_SECONDS = 600.0  # one forward of a large encoder may take minutes


def supervisor_name(engine: str) -> str:
    """The name of its actor."""
    return f"antiphon-{engine}"


class Started(NamedTuple):
    """A worker's process that is being started. `spot` and `loading`: results of its first calls,
    `Spot` and the `info` of what it loads."""

    handle: Any
    spot: Any
    loading: Any


@dataclass(frozen=True)
class Blueprint:
    """Everything that the workers of an engine are made of. Other processes that attach get it
    too."""

    model: ModelConfig
    config: EngineConfig
    rules: TimestampRules | None
    placement: Placement

    @property
    def roles(self) -> dict[str, int]:
        """How many workers of each role the engine starts with."""
        decoders = self.config.decoder.replicas
        if self.placement.colocated:
            return {"colocated": decoders}
        return {"encoder": self.config.encoder.replicas, "decoder": decoders}

    @property
    def bounds(self) -> dict[str, Bounds]:
        """How many workers there may be of the roles whose number changes by itself."""
        decoders, encoders = self.config.decoder.bounds, self.config.encoder.bounds
        bounds = {
            "colocated": Bounds(*decoders),
            "decoder": Bounds(*decoders),
            "encoder": Bounds(*encoders),
        }
        return {
            role: bounds[role]
            for role, count in self.roles.items()
            if count and not bounds[role].fixed  # no encoder where the model has none
        }

    @property
    def hang_timeout(self) -> float:
        """Seconds in which a worker's loop must come round."""
        default = GPU_HANG_SECONDS if self.placement.gpu_share else CPU_HANG_SECONDS
        return self.config.workers.hang_timeout or default

    def start(self, incarnation: Incarnation, role: str) -> Started:
        """Starts a process and lets it load. Returns at once."""
        # PASSIVE: two OpenMP pools (torch's and Numba's) share a worker's cores, and threads that
        # spin while they wait would starve each other.
        actor = ray.remote(
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
            concurrency_groups={"watch": 1},
            max_restarts=0,  # the supervisor restarts: it knows why, how often and what to tell
            num_cpus=self.placement.cpus,
            num_gpus=self.placement.gpu_share,
        )(WorkerProcess)
        handle = actor.remote()
        spot = handle.spot.remote()
        loading = handle.load.remote(
            role,
            incarnation,
            self.model,
            self.config,
            self.rules,
            self.placement.gpu_share,
        )
        return Started(handle, spot, loading)
