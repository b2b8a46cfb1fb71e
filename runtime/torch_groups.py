"""Groups of processes, over torch's gloo on CPUs and NCCL on GPUs.

They are made straight from a store, without torch's global default group: an engine of several
replicas, several engines, and both halves of one can so share a process.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from antiphon.config.parallel import RankSpec
from antiphon.runtime.groups import Alone, Group
from antiphon.runtime.ranks import RankError, Ranks

MAX_SENDS = 16  # on their way at once


class StoreAddress(NamedTuple):
    """Where the ranks of a replica find each other."""

    host: str
    port: int


def open_store(host: str) -> tuple[TCPStore, StoreAddress]:
    """The store of one life of a replica, in this process, which must keep it. `host`: the address
    by which other nodes reach this one."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return store, StoreAddress(host, store.port)


def join(spec: RankSpec, address: StoreAddress, host: str, device: torch.device) -> Ranks:
    """Meets the other ranks of the replica, which all call this. `host`: this node's address.
    `device`: of the tensors that they will exchange.

    Raises RankError if they don't come in time.
    """
    parallel, rank = spec.parallel, spec.rank
    tensor, stage = parallel.tensor_rank_of(rank), parallel.stage_of(rank)
    timeout = timedelta(seconds=spec.startup_timeout)  # until `limit_waiting`
    with _typed("the ranks of its replica"):
        store = TCPStore(*address, is_master=False, timeout=timeout)
        store.set(f"rank-{rank}", "here")  # the time of collective calls begins with the last one
        every = [f"rank-{number}" for number in range(parallel.num_ranks)]
        store.wait(every, timeout)

        def group(name: str, own: int, size: int) -> Group:
            if size == 1:
                return Alone()
            return TorchGroup(PrefixStore(name, store), own, size, host, device, timeout)

        ranks = Ranks(
            parallel,
            rank,
            group(f"tensor-{stage}", tensor, parallel.tensor),
            group(f"stages-{tensor}", stage, parallel.pipeline),
        )
        ranks.barrier()
    return ranks


def limit_waiting(ranks: Ranks, spec: RankSpec) -> None:
    """Once `ranks` have loaded: until then one may be slower by as much as a start may take."""
    for group in (ranks.tensor, ranks.stages):
        if isinstance(group, TorchGroup):
            group.limit(spec.timeout)


class TorchGroup(Group):
    """On CPUs each call waits until it is done. Raises RankError where another rank is gone, or
    does not come within the timeout."""

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        host: str,
        device: torch.device,
        timeout: timedelta,
    ) -> None:
        self.rank, self.size, self._device = rank, size, device
        make = _nccl if device.type == "cuda" else _gloo
        self._group = make(store, rank, size, host, timeout)
        self._sent: deque[tuple[Any, torch.Tensor]] = deque()  # maybe still on their way

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        self._run("all_reduce", lambda: self._group.allreduce([x]))
        return x

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1)
        gathered = x.new_empty(self.size * len(flat))
        self._run("all_gather", lambda: self._group._allgather_base(gathered, flat))
        return gathered.view(self.size, *x.shape)

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = source, 0
        self._run("broadcast", lambda: self._group.broadcast([x], options))

    def send(self, x: torch.Tensor, target: int) -> None:
        if self._device.type == "cuda":
            return self._run("send", lambda: self._group.send([x.contiguous()], target, 0))
        # gloo's sends wait for their receiver, and two ranks may send to each other at once.
        sent = x.clone(memory_format=torch.contiguous_format)
        self._sent.append((self._group.send([sent], target, 0), sent))
        while len(self._sent) > MAX_SENDS:
            self._run("send", lambda: self._sent.popleft()[0])

    def receive(self, into: torch.Tensor, source: int) -> None:
        self._run("receive", lambda: self._group.recv([into], source, 0))

    def limit(self, seconds: float) -> None:
        """From now on calls wait for so long."""
        self._group._set_default_timeout(timedelta(seconds=seconds))

    def barrier(self) -> None:
        self.all_reduce(torch.zeros(1, device=self._device)).item()

    def close(self) -> None:
        self._group.abort()

    def _run(self, name: str, call: Callable[[], Any]) -> None:
        """On a GPU the current stream waits for the call, and the host does not."""
        with _typed(f"another rank in {name}"):
            call().wait()


def _gloo(store: Store, rank: int, size: int, host: str, timeout: timedelta) -> Any:
    options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # a stub lacks it
    options._timeout = timeout
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Store, rank: int, size: int, host: str, timeout: timedelta) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, size, options)


@contextmanager
def _typed(whom: str) -> Iterator[None]:
    """What torch raises of `whom`, as our own error."""
    try:
        yield
    except RankError:
        raise
    except RuntimeError as error:  # DistError and its kind, and what gloo throws
        reason = str(error).strip().splitlines()[0]
        raise RankError(
            f"waited in vain for {whom}: {reason} (collective_timeout says for how long)"
        ) from error
