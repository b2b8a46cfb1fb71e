"""How the ranks of a replica meet: their groups of processes, over torch's gloo on CPUs
and NCCL on GPUs."""

from datetime import timedelta
from typing import NamedTuple

import torch
from torch._C._distributed_c10d import PrefixStore, TCPStore

from antiphon.config.parallel import RankSpec
from antiphon.runtime.groups import Alone, Group
from antiphon.runtime.nccl_group import NcclGroup
from antiphon.runtime.ranks import Ranks
from antiphon.runtime.symmetric_memory import SUMMED_NORM_BYTES
from antiphon.runtime.torch_groups import GlooGroup, TorchGroup
from antiphon.runtime.waiting import WaitLimit, waiting_for


class StoreAddress(NamedTuple):
    """Where the ranks of a replica find each other."""

    host: str
    port: int


def open_store(host: str) -> tuple[TCPStore, StoreAddress]:
    """The store of one life of a replica, in this process, which must keep it. `host`:
    the address by which other nodes reach this one."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return store, StoreAddress(host, store.port)


def join(
    spec: RankSpec,
    address: StoreAddress,
    host: str,
    device: torch.device,
    norm_bytes: int = SUMMED_NORM_BYTES,
) -> Ranks:
    """Meets the other ranks of the replica, which all call this. `host`: this node's
    address. `device`: of the tensors that they will exchange. `norm_bytes`: as of
    `NcclGroup.share_memory`.

    Raises RankError if they don't come in time.
    """
    parallel, rank = spec.parallel, spec.rank
    tensor, stage = parallel.tensor_rank_of(rank), parallel.stage_of(rank)
    timeout = timedelta(seconds=spec.startup_timeout)  # until `limit_waiting`
    with waiting_for("the ranks of its replica"):
        store = TCPStore(*address, is_master=False, timeout=timeout)
        store.set(f"rank-{rank}", "here")  # the time of collective calls begins with the last one
        every = [f"rank-{number}" for number in range(parallel.num_ranks)]
        store.wait(every, timeout)

        def group(name: str, own: int, size: int) -> Group:
            if size == 1:
                return Alone()
            part = PrefixStore(name, store)
            if device.type == "cpu":
                return GlooGroup(part, own, size, host, timeout)
            return NcclGroup.join(part, own, size, device, timeout)

        ranks = Ranks(
            parallel,
            rank,
            group(f"tensor-{stage}", tensor, parallel.tensor),
            group(f"stages-{tensor}", stage, parallel.pipeline),
            group(f"backward-{tensor}", stage, parallel.pipeline),
            WaitLimit(spec.startup_timeout),
        )
        ranks.barrier()
        if isinstance(ranks.tensor, NcclGroup):
            name = f"{address.host}:{address.port} stage {stage}"
            ranks.tensor.share_memory(PrefixStore(f"memory-{stage}", store), name, norm_bytes)
    return ranks


def limit_waiting(ranks: Ranks, spec: RankSpec) -> None:
    """Once `ranks` have loaded: until then one may be slower by as much as a start may take."""
    ranks.limit.seconds = spec.timeout
    for group in ranks.groups:
        if isinstance(group, TorchGroup):
            group.limit(spec.timeout)
