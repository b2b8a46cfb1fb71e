"""Decides whether the halves of an engine share processes, and what each process asks of Ray.

Decided before anything starts, from what the cluster has free: Ray would wait in silence for a
worker that can never be placed.
"""

import logging
import math
import time
from dataclasses import dataclass
from functools import cache

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig, HalfOptions

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 5.0  # Ray frees the resources of an ended worker some time after its end


@dataclass(frozen=True)
class Node:
    """One machine: its GPUs, and the GPUs and CPUs that are not reserved."""

    name: str
    gpus: float
    free_gpus: float
    free_cpus: float = 0.0


@dataclass(frozen=True)
class Placement:
    """`processes`: how many. `gpu_share`, `cpus`: what each process asks for; `gpu_share` is a
    fraction of one GPU, 0.0 on CPUs."""

    colocated: bool
    processes: int
    gpu_share: float
    cpus: float


def place(config: EngineConfig) -> Placement:
    """Raises ConfigurationError if the workers don't fit what the cluster has free."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        nodes = cluster_nodes()
        try:
            return decide(config, nodes)
        except ConfigurationError:
            may_still_fit = any(node.free_gpus < node.gpus for node in nodes)
            if not may_still_fit or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def decide(config: EngineConfig, nodes: list[Node]) -> Placement:
    """As `place`, for these nodes."""
    on_gpus = config.model.device != "cpu" and any(node.gpus for node in nodes)
    if config.model.device == "cuda" and not on_gpus:
        raise ConfigurationError(
            "device='cuda' but this Ray cluster has no GPU: use device='cpu' or add a GPU node"
        )
    rooms = [math.floor(node.free_gpus) for node in nodes]
    colocated = _colocates(config, rooms if on_gpus else None)
    sizes = _stage_sizes(config, colocated)
    processes, free = sum(sizes), sum(rooms)
    several = has_several_ranks(config)
    enough_cpus = sum(node.free_cpus for node in nodes) >= processes
    if several:
        enough_cpus = _have_cpus_for_ranks(sizes, nodes, on_gpus)
    cpus = 1.0 if enough_cpus else 0.0  # an engine starts even with too few CPUs
    if not on_gpus:
        return Placement(colocated, processes, 0.0, cpus)
    if several:
        _check_whole_gpus(config, colocated, nodes)
        return Placement(colocated, processes, 1.0, cpus)
    if not free:
        raise ConfigurationError(
            f"{processes} worker{'s' * (processes > 1)} "
            f"(encoder_replicas={config.encoder.replicas}, "
            f"decoder_replicas={config.decoder.replicas}) need a free GPU, and this Ray cluster "
            f"has none: {_gpus_by_node(nodes)}. "
            "Close another engine, add a GPU node, or use device='cpu'"
        )
    on_one_gpu = math.ceil(processes / free)
    if on_one_gpu > 1:
        logger.warning(
            "%d workers share %d free GPUs: each may use %.0f %% of one",
            processes,
            free,
            100 / on_one_gpu,
        )
    return Placement(colocated, processes, math.floor(100 / on_one_gpu) / 100, cpus)


def _colocates(config: EngineConfig, rooms: list[int] | None) -> bool:
    """Whether encoder and decoder share processes. `rooms`: free GPUs of each node; None on CPUs.

    'auto': if there are GPUs, but not enough for both halves of each replica.
    """
    if "encoder" not in config.halves:
        return False
    reason = _why_not_colocated(config)
    match config.workers.placement:
        case "auto":
            if rooms is None or sum(rooms) == 0 or not _may_colocate(config):
                return False
            apart, beside = (_stage_sizes(config, colocated) for colocated in (False, True))
            shares_gpus = not has_several_ranks(config)  # several ranks have whole ones
            return not _fits(apart, rooms) and (shares_gpus or _fits(beside, rooms))
        case "colocated" if reason is not None:
            raise ConfigurationError(
                f"placement='colocated' puts one encoder beside each decoder: {reason}"
            )
        case chosen:
            return chosen == "colocated"


def _why_not_colocated(config: EngineConfig) -> str | None:
    """What keeps an encoder from the ranks of a decoder; None if nothing does."""
    encoder, decoder = config.encoder, config.decoder
    ranks, own = decoder.parallel.num_ranks, encoder.parallel
    if encoder.replicas != decoder.replicas:
        return f"encoder_replicas={encoder.replicas} != decoder_replicas={decoder.replicas}"
    if own.pipeline > 1:
        return (
            f"it has no stages there (encoder_pipeline_parallel_size={own.pipeline}): leave that "
            "out, and give decoder_pipeline_parallel_size for the decoder alone"
        )
    if own.tensor not in (1, ranks):
        return (
            f"encoder_tensor_parallel_size={own.tensor}, and the decoder has {ranks} "
            f"rank{'s' * (ranks > 1)}: leave it out, or give as many"
        )
    if ranks > 1 and encoder.tp_mode == "weights":
        return (
            "with encoder_tp_mode='weights' the sums of both halves could wait for each other on "
            "one GPU: leave it out, or give 'data'"
        )
    return None


def _may_colocate(config: EngineConfig) -> bool:
    """True if the placement is chosen by what is free."""
    is_open = config.workers.placement == "auto" and "encoder" in config.halves
    return is_open and _why_not_colocated(config) is None


def has_several_ranks(config: EngineConfig) -> bool:
    return any(half.parallel.num_ranks > 1 for half in config.halves.values())


def _processes(config: EngineConfig, colocated: bool) -> dict[str, HalfOptions]:
    """The halves that have processes of their own; the encoder beside a decoder has none."""
    return {"decoder": config.decoder} if colocated else config.halves


def _equation(config: EngineConfig, colocated: bool) -> str:
    """How many ranks there are, and why."""
    terms, total = [], 0
    for name, half in _processes(config, colocated).items():
        tensor, stages = half.parallel.tensor, half.parallel.pipeline
        what = f"{name} with an encoder beside it" if colocated else name
        terms.append(f"{half.replicas} {what} x tensor {tensor} x pipeline {stages}")
        total += half.replicas * half.parallel.num_ranks
    return f"{' + '.join(terms)} = {total} ranks"


def _stage_sizes(config: EngineConfig, colocated: bool) -> list[int]:
    """Ranks of each stage of all replicas: those of one need one node."""
    return [
        half.parallel.tensor
        for half in _processes(config, colocated).values()
        for _ in range(half.replicas * half.parallel.pipeline)
    ]


def _check_whole_gpus(config: EngineConfig, colocated: bool, nodes: list[Node]) -> None:
    """Raises ConfigurationError unless each rank can have a GPU of its own, and the ranks of each
    stage GPUs of one node."""
    sizes = _stage_sizes(config, colocated)
    free = [math.floor(node.free_gpus) for node in nodes]
    equation = _equation(config, colocated)
    if not colocated and _may_colocate(config):
        equation += f" (colocated: {sum(_stage_sizes(config, colocated=True))})"
    if sum(sizes) > sum(free):
        raise ConfigurationError(
            f"{equation} need a free GPU each, and this Ray cluster has "
            f"{sum(free)}: {_gpus_by_node(nodes)}. Close another engine, add GPUs, or "
            "give smaller sizes"
        )
    if not _fits(sizes, free):
        raise ConfigurationError(
            f"{equation}: the {max(sizes)} ranks that share a layer need free GPUs of one "
            f"node: {_gpus_by_node(nodes)}. Give a smaller tensor_parallel_size"
        )


def _have_cpus_for_ranks(sizes: list[int], nodes: list[Node], on_gpus: bool) -> bool:
    """True if each rank can have a CPU where its stage can be."""
    rooms = [
        math.floor(min(node.free_cpus, node.free_gpus) if on_gpus else node.free_cpus)
        for node in nodes
    ]
    return _fits(sizes, rooms)


def _fits(sizes: list[int], rooms: list[int]) -> bool:
    """True if groups of these sizes can be divided among nodes with so much room, none of them
    between two nodes."""
    ordered = sorted(sizes, reverse=True)

    @cache
    def place(number: int, rooms: tuple[int, ...]) -> bool:
        if number == len(ordered):
            return True
        size = ordered[number]
        return any(
            place(number + 1, tuple(sorted((*rooms[:n], room - size, *rooms[n + 1 :]))))
            for n, room in enumerate(rooms)
            if room >= size and room not in rooms[:n]
        )

    return place(0, tuple(sorted(rooms)))


def _gpus_by_node(nodes: list[Node]) -> str:
    shares = [
        f"{node.name} has {node.free_gpus:g} of {node.gpus:g} free" for node in nodes if node.gpus
    ]
    return "; ".join(shares)


def cluster_nodes() -> list[Node]:
    """The living nodes of the cluster that this process is connected to."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        Node(
            node["NodeManagerAddress"],
            node["Resources"].get("GPU", 0.0),
            free.get(node["NodeID"], {}).get("GPU", 0.0),
            free.get(node["NodeID"], {}).get("CPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
