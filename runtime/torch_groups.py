"""Groups of processes, over torch's gloo on CPUs and NCCL on GPUs.

They are made straight from a store, without torch's global default group: an engine of
several replicas, several engines, and both halves of one can so share a process.
"""

from abc import abstractmethod
from collections import deque
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions, Store

from antiphon.runtime.groups import Group
from antiphon.runtime.waiting import waiting_for

MAX_SENDS = 16  # on their way at once


class TorchGroup(Group):
    """`group`: one of torch's. Raises RankError where another rank is gone, or does not
    come within the timeout, if the host waits."""

    def __init__(self, group: Any, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self._device = rank, size, device
        self._group = group
        self._sent: deque[tuple[Any, torch.Tensor]] = deque()  # maybe still on their way

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        with waiting_for("another rank in all_reduce"):
            _wait(self._group.allreduce([x], _on_this_stream(dist.AllreduceOptions())))
        return x

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1)
        gathered = x.new_empty(self.size * len(flat))
        with waiting_for("another rank in all_gather"):
            options = _on_this_stream(AllgatherOptions())
            _wait(self._group._allgather_base(gathered, flat, options))
        return gathered.view(self.size, *x.shape)

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        options = _on_this_stream(dist.BroadcastOptions())
        options.rootRank, options.rootTensor = source, 0
        with waiting_for("another rank in broadcast"):
            _wait(self._group.broadcast([x], options))

    def send(self, x: torch.Tensor, target: int) -> None:
        # Both gloo's sends and NCCL's wait for their receiver, and two ranks may send at once.
        sent = x.clone(memory_format=torch.contiguous_format)
        with waiting_for("another rank in send"):
            self._sent.append((self._group.send([sent], target, 0), sent))
            while self._sent and self._may_forget(self._sent[0][0]):
                self._sent.popleft()
            while len(self._sent) > MAX_SENDS:
                self._sent.popleft()[0].wait()

    @abstractmethod
    def _may_forget(self, send: Any) -> bool:
        """True if a send is known to be over."""

    def receive(self, into: torch.Tensor, source: int) -> None:
        with waiting_for("another rank in receive"):
            self._group.recv([into], source, 0).wait()

    def limit(self, seconds: float) -> None:
        """From now on calls wait for so long."""
        self._group._set_default_timeout(timedelta(seconds=seconds))

    def barrier(self) -> None:
        self.all_reduce(torch.zeros(1, device=self._device)).item()

    def close(self) -> None:
        self._group.abort()


def _on_this_stream(options: Any) -> Any:
    """NCCL then queues a call on the current stream. Otherwise it takes a stream of its
    own, and makes both streams wait for each other: more nodes in a CUDA graph."""
    options.asyncOp = False
    return options


def _wait(work: Any) -> None:
    """Until a call is done; for one that is queued on the current stream, there is no `work`."""
    if work is not None:
        work.wait()


class GlooGroup(TorchGroup):
    """Ranks on CPUs. Each call but `send` waits until it is done."""

    def __init__(self, store: Store, rank: int, size: int, host: str, timeout: timedelta) -> None:
        """`host`: this node's address."""
        backend: Any = dist.ProcessGroupGloo  # torch's stub lacks `_Options`
        options = backend._Options()
        options._timeout = timeout
        options._devices = [backend.create_device(hostname=host)]
        group = backend(store, rank, size, options)
        super().__init__(group, rank, size, torch.device("cpu"))

    def _may_forget(self, send: Any) -> bool:
        return False  # gloo knows it of those alone that were waited for
