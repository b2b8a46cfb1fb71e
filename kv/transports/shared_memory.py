"""Memory that processes of one node share, without a name in any file system.

Linux keeps it as long as a process has it open or mapped: nothing is left of processes
that are killed.
"""

import mmap
import os

import msgspec
import torch

from antiphon.config.errors import describe
from antiphon.kv.transports.mapping import MappingError


class SharedHandle(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How other processes of the node find it: the open file `descriptor` of process
    `pid`, whose name no other has."""

    pid: int
    descriptor: int
    name: str


def allocate(
    shape: tuple[int, int], dtype: torch.dtype, name: str
) -> tuple[torch.Tensor, SharedHandle]:
    """A tensor that other processes can map. It takes memory where it is written.
    Raises MappingError."""
    num_bytes = shape[0] * shape[1] * dtype.itemsize
    try:
        descriptor = os.memfd_create(name)
        os.ftruncate(descriptor, num_bytes)
        tensor = _tensor(descriptor, num_bytes, dtype).view(shape)
    except (AttributeError, OSError) as error:  # not Linux; or out of file descriptors
        raise MappingError(f"no shared memory of {num_bytes} bytes: {describe(error)}") from error
    return tensor, SharedHandle(os.getpid(), descriptor, name)


def map_shared(handle: SharedHandle, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """The memory of another process. Raises MappingError where it cannot be reached:
    its process is gone, or belongs to another user or another container."""
    path = f"/proc/{handle.pid}/fd/{handle.descriptor}"
    try:
        descriptor = os.open(path, os.O_RDWR)
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if not target.startswith(f"/memfd:{handle.name}"):  # another process has this number
                raise MappingError(f"{path} is {target}, not the memory {handle.name}")
            return _tensor(descriptor, shape[0] * shape[1] * dtype.itemsize, dtype).view(shape)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MappingError(f"{path} cannot be opened: {describe(error)}") from error


def _tensor(descriptor: int, num_bytes: int, dtype: torch.dtype) -> torch.Tensor:
    """The mapping ends with the last tensor over it."""
    return torch.frombuffer(mmap.mmap(descriptor, num_bytes), dtype=dtype)
