"""What it takes to start one worker of an engine.

The supervisor and the engine that starts it both use this. Neither needs torch for it.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from antiphon.actors.membership import first_incarnations
from antiphon.actors.placement import Placement, has_several_ranks
from antiphon.actors.scaling import Bounds
from antiphon.actors.worker_process import WorkerProcess
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.config.parallel import Parallel, RankSpec
from antiphon.families.checkpoint import ModelConfig
from antiphon.scheduler.request import Incarnation

NAMESPACE = "antiphon"  # of supervisors' names, whatever the namespaces of the programs
GPU_HANG_SECONDS = 2.0  # its loop only queues work there
GPU_WAIT_SECONDS = 60.0  # for another rank
CPU_HANG_SECONDS = 600.0  # one forward of a large encoder may take minutes


def supervisor_name(engine: str) -> str:
    """The name of its actor."""
    return f"antiphon-{engine}"


class Started(NamedTuple):
    """A worker's process that is being started. `spot` and `loading`: results of its first calls,
    `Spot` and the `info` of what it loads.

    Of a replica of several ranks it is the leader's; `followers` are the others, and `reserved` the
    placement groups of all of them.
    """

    handle: Any
    spot: Any
    loading: Any
    followers: "tuple[Started, ...]" = ()
    reserved: tuple[Any, ...] = ()

    @property
    def ranks(self) -> "tuple[Started, ...]":
        return (self, *self.followers)

    def kill(self) -> None:
        for rank in self.ranks:
            ray.kill(rank.handle, no_restart=True)
        self.release()

    def release(self) -> None:
        """Gives back what was reserved for it. Its processes have ended."""
        for group in self.reserved:
            remove_placement_group(group)


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
    def first_starts(self) -> list[tuple[Incarnation, str]]:
        """The workers to start first, with their roles. Those of large stages come before others:
        single ranks fit anywhere, and could take the last room that a stage finds on one node."""
        workers = first_incarnations(self.roles)
        return sorted(workers, key=lambda worker: -self.parallel(worker[1]).tensor)

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
        """Seconds in which a worker's loop must come round. One of several ranks may rightly wait
        for another."""
        default = GPU_HANG_SECONDS if self.placement.gpu_share else CPU_HANG_SECONDS
        if has_several_ranks(self.config):
            # Later than the rank that waits, which says what for.
            default = max(default, self.collective_timeout + GPU_HANG_SECONDS)
        return self.config.workers.hang_timeout or default

    @property
    def collective_timeout(self) -> float:
        """Seconds that a rank waits for the others."""
        default = GPU_WAIT_SECONDS if self.placement.gpu_share else CPU_HANG_SECONDS
        return self.config.workers.collective_timeout or default

    def parallel(self, role: str) -> Parallel:
        """The ranks of each worker of a role."""
        return self.config.encoder.parallel if role == "encoder" else self.config.decoder.parallel

    def start(self, incarnation: Incarnation, role: str) -> Started:
        """Starts a process for each rank and lets it load. Returns at once."""
        parallel = self.parallel(role)
        if parallel.num_ranks == 1:
            return self._start(incarnation, role, self._actor().remote())
        with ExitStack() as undo:  # a start that fails halfway leaves nothing
            stages = []
            for _ in range(parallel.pipeline):
                if (group := self._reserve(parallel.tensor)) is not None:
                    undo.callback(remove_placement_group, group)
                stages.append(group)
            handles = []
            for rank in range(parallel.num_ranks):
                actor = self._actor(stages[parallel.stage_of(rank)], parallel.tensor_rank_of(rank))
                handles.append(handle := actor.remote())
                undo.callback(ray.kill, handle, no_restart=True)
            leader = self._load(incarnation, role, parallel, handles)
            undo.pop_all()
        return leader._replace(reserved=tuple(group for group in stages if group is not None))

    def _load(
        self, incarnation: Incarnation, role: str, parallel: Parallel, handles: list[Any]
    ) -> Started:
        """Lets the ranks of one replica load. Returns its leader with the followers."""
        workers = self.config.workers
        store = handles[0].open_store.remote()
        started = [
            self._start(
                incarnation,
                role,
                handle,
                RankSpec(parallel, rank, self.collective_timeout, workers.startup_timeout),
                store,
            )
            for rank, handle in enumerate(handles)
        ]
        leader = started.pop(parallel.leader)
        return leader._replace(followers=tuple(started))

    def _reserve(self, count: int) -> Any:
        """Room for the ranks of one stage, on one node; None where they ask for nothing."""
        asked = {"CPU": self.placement.cpus, "GPU": self.placement.gpu_share}
        bundle = {resource: amount for resource, amount in asked.items() if amount}
        return placement_group([bundle] * count, strategy="STRICT_PACK") if bundle else None

    def _actor(self, group: Any = None, bundle: int = 0) -> Any:
        strategy: Any = "DEFAULT"
        if group is not None:
            strategy = PlacementGroupSchedulingStrategy(group, bundle)
        # PASSIVE: two OpenMP pools (torch's and Numba's) share a worker's cores, and threads that
        # spin while they wait would starve each other.
        return ray.remote(
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
            concurrency_groups={"watch": 1},
            max_restarts=0,  # the supervisor restarts: it knows why, how often and what to tell
            num_cpus=self.placement.cpus,
            num_gpus=self.placement.gpu_share,
            scheduling_strategy=strategy,
        )(WorkerProcess)

    def _start(
        self,
        incarnation: Incarnation,
        role: str,
        handle: Any,
        spec: RankSpec | None = None,
        store: Any = None,
    ) -> Started:
        spot = handle.spot.remote()
        loading = handle.load.remote(
            role,
            incarnation,
            self.model,
            self.config,
            self.rules,
            self.placement.gpu_share,
            spec,
            store,
        )
        return Started(handle, spot, loading)
