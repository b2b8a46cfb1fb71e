"""Sums of small tensors by memory that every rank of a group maps: the kernels read and
write the other ranks' GPUs over NVLink, which takes half the time that NCCL's
all-reduce takes.

The kernels are torch's
(`torch/csrc/distributed/c10d/symm_mem/CUDASymmetricMemoryOps.cu`). Each waits at its
begin until all ranks have come, and at its end until all ranks have read: behind it on
the stream, a rank may overwrite its buffer, so that one buffer serves all calls, in and
out of CUDA graphs. A kernel waits on the device and for ever: see `runtime/waiting.py`.

Not used is `one_shot_all_reduce_copy`, which would copy the input too: its threads tell
other ranks that a block is copied without waiting for the rest of the block.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from math import prod
from typing import Any, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from antiphon.config.errors import AntiphonError, describe
from antiphon.runtime.groups import Group

# Bytes up to which each way is the fastest, from measurements on two and four H200s (bfloat16
# [1..512, 1280]; a copy into the buffer is added to both, and one out of it to the second).
ONE_SHOT_BYTES = 512 * 2**10  # over the number of other ranks, all of which it reads
TWO_SHOT_BYTES = 1280 * 2**10  # the largest that was measured
# Up to which the norm behind a sum makes it (`kernels/summed_norm.py`), over the number of other
# ranks, all of which it reads; 0: never. `benchmarks/reductions.py` says where it pays.
SUMMED_NORM_BYTES = 4 * 2**20
ALIGNMENT = 16  # bytes that a thread of the kernels reads at once

# What the kernels add. Half precision is added in float32: they know no float16.
WIRE_DTYPES = {
    torch.bfloat16: torch.bfloat16,
    torch.float32: torch.float32,
    torch.float16: torch.float32,
}
# Read by torch at every rendezvous. Ray shows each process one GPU, so that all have number 0;
# torch takes that for one GPU that several ranks use. Multicast stays off.
ENVIRONMENT = {
    "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
}


class SymmetricMemoryError(AntiphonError):
    """Ranks cannot map each other's memory here. Their sums go through NCCL then."""


class Way(StrEnum):
    """How a sum is made."""

    ONE_SHOT = "one shot"  # each rank reads all of the others' terms
    TWO_SHOT = "two shot"  # each rank sums a part, and writes it to all others
    NCCL = "NCCL"


def choose_way(shape: torch.Size, dtype: torch.dtype, size: int) -> Way:
    """The fastest for a tensor of `shape` on `size` ranks. Depends on nothing else, so
    that all ranks choose alike."""
    wire = WIRE_DTYPES.get(dtype)
    if wire is None:
        return Way.NCCL
    nbytes = prod(shape) * wire.itemsize
    if nbytes == 0 or nbytes % ALIGNMENT or nbytes > TWO_SHOT_BYTES:
        return Way.NCCL
    return Way.ONE_SHOT if nbytes * (size - 1) <= ONE_SHOT_BYTES else Way.TWO_SHOT


class SharedBuffer(ABC):
    """Memory of this rank that all ranks of a group read and write. All make the same calls."""

    @abstractmethod
    def connect(self) -> None:
        """Maps the other ranks' memory, and lets them map this. Before anything else."""

    @abstractmethod
    def view(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """The first bytes, as a tensor."""

    @abstractmethod
    def one_shot(self, view: torch.Tensor) -> torch.Tensor:
        """The sum of every rank's `view`, as a new tensor; the same bits on all."""

    @abstractmethod
    def two_shot(self, view: torch.Tensor) -> None:
        """Overwrites every rank's `view` with the sum of all of them."""


class SymmetricSum:
    """Sums tensors over the ranks of a group through `buffer`, where that is the fastest way."""

    def __init__(self, buffer: SharedBuffer, size: int) -> None:
        self._buffer, self._size = buffer, size

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """The sum of every rank's `x`, in memory of its own; None where NCCL is to make it."""
        return self.by(choose_way(x.shape, x.dtype, self._size), x)

    def by(self, way: Way, x: torch.Tensor) -> torch.Tensor | None:
        """As a call, in the given way, which fits `x`."""
        if way is Way.NCCL:
            return None
        view = self._buffer.view(x.shape, WIRE_DTYPES[x.dtype])
        view.copy_(x)
        if way is Way.ONE_SHOT:
            return self._buffer.one_shot(view).to(x.dtype)
        self._buffer.two_shot(view)
        return view.to(x.dtype, copy=True)


def share_memory(
    group: Group, make: Callable[[], SharedBuffer], device: torch.device
) -> SymmetricSum:
    """Maps the memory that `make` takes on each rank of `group`; all ranks call this at once.

    Raises SymmetricMemoryError on all ranks where any of them cannot.
    """
    with together(group, device):
        buffer = make()
    with together(group, device):
        buffer.connect()
    total = SymmetricSum(buffer, group.size)
    with together(group, device):
        _check(total, group, device)
    return total


@contextmanager
def together(group: Group, device: torch.device) -> Iterator[None]:
    """Raises SymmetricMemoryError on all ranks if what is inside fails on any of them."""
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # of torch, the driver, or our own check
        problem = error
    works = torch.tensor([problem is None], dtype=torch.int64, device=device)
    if not int(group.all_gather(works).min()):
        reason = "another rank fails" if problem is None else describe(problem)
        raise SymmetricMemoryError(
            f"not all {group.size} ranks can map each other's memory: {reason}"
        ) from problem


def _check(total: SymmetricSum, group: Group, device: torch.device) -> None:
    """Raises SymmetricMemoryError unless sums are right."""
    wanted = group.size * (group.size + 1) / 2
    for way in (Way.ONE_SHOT, Way.TWO_SHOT):
        summed = total.by(way, torch.full((64, 1024), group.rank + 1.0, device=device))
        assert summed is not None
        if not bool((summed == wanted).all()):
            raise SymmetricMemoryError(f"{way} sums are wrong between these devices")


class TorchBuffer(SharedBuffer):
    """By `torch.distributed._symmetric_memory`.

    torch finds the ranks of a group by its name in a registry of the process, which
    `init_process_group` fills for groups of its own. Ours are made without it (see
    `runtime/torch_groups.py`), so that a `ProcessGroup` around one is put there, with
    the store over which ranks exchange handles. It is registered as long as this lives.
    """

    meetings = 0  # that this process came to. torch's store keys contain their number.

    def __init__(
        self,
        store: Store,
        group: Any,
        name: str,
        device: torch.device,
        nbytes: int = TWO_SHOT_BYTES,
    ) -> None:
        """Takes the memory. `store`: of these ranks and this buffer alone. `group`: torch's, of a
        kind for GPUs. `name`: its own in this process. Raises RuntimeError, AttributeError
        or ImportError where this torch or this device has no such memory."""
        import torch.distributed._symmetric_memory  # defines operators
        from torch._C._distributed_c10d import _register_process_group, _SymmetricMemory

        self._name = cast("Any", name)  # torch has a type of its own for it
        self._ranks = dist.ProcessGroup(store, group.rank(), group.size())
        kind = dist.ProcessGroup.BackendType.NCCL
        self._ranks._register_backend(torch.device("cuda"), kind, group)
        self._ranks._set_group_name(self._name)  # which the group holds: not before it is there
        _register_process_group(self._name, self._ranks)
        self._torch: Any = _SymmetricMemory
        self._store, self._rank, self._size = store, group.rank(), group.size()
        # Straight from the allocator, at the begin of a block: `symm_mem.empty` may give the middle
        # of one, and the kernels of some versions read from its begin.
        self._bytes = _SymmetricMemory.empty_strided_p2p((nbytes,), (1,), torch.uint8, device, name)
        self._one_shot = torch.ops.symm_mem.one_shot_all_reduce.default
        self._two_shot = torch.ops.symm_mem.two_shot_all_reduce_.default

    def connect(self) -> None:
        self._check_meetings()
        TorchBuffer.meetings += 1
        with _environment(ENVIRONMENT):
            try:
                self._handle = self._torch.rendezvous(self._bytes, self._name)
            except RuntimeError as error:  # of an older torch, with a registry for this alone
                if "no group info" not in str(error):
                    raise
                self._torch.set_group_info(self._name, self._rank, self._size, self._store)
                self._handle = self._torch.rendezvous(self._bytes, self._name)

    def _check_meetings(self) -> None:
        """Raises SymmetricMemoryError if torch would wait in vain: the processes came
        to different numbers of meetings. (Those of an engine come to one.)"""
        self._store.set(f"meetings-{self._rank}", str(TorchBuffer.meetings))
        counts = {int(self._store.get(f"meetings-{rank}")) for rank in range(self._size)}
        if len(counts) > 1:
            raise SymmetricMemoryError(f"its processes have shared memory {counts} times before")

    @property
    def memory(self) -> torch.Tensor:
        """[bytes] uint8."""
        return self._bytes

    @property
    def addresses(self) -> list[int]:
        """Of every rank's memory, as this one maps it. Once connected."""
        return [int(address) for address in self._handle.buffer_ptrs]

    def view(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        return self._bytes[: prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def one_shot(self, view: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self._one_shot(view, "sum", self._name)
        return total

    def two_shot(self, view: torch.Tensor) -> None:
        self._two_shot(view, "sum", self._name)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Inside, these are set, unless the user has."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
