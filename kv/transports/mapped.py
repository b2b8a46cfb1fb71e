"""To a decoder on the same node: rows are written straight into its arena, which is mapped here.

    decoder                          encoder
    exports its arena, asks: rows -> maps the arena, the first time
                                     encodes; writes the rows behind that, on the same stream
    takes the rows as they are    <- once they are written: keys and tickets, a few bytes

Nothing of CUDA but the memory is shared. An event of the encoder, which the decoder's
stream could wait for, may not be used once its maker has ended: a killed encoder would
take decoders with it.
"""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch

from antiphon.kernels.formats import ROW_COPY_DTYPES
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.cuda_memory import CudaHandle, CudaMapping
from antiphon.kv.transports.interface import Sent, Transport
from antiphon.kv.transports.mapping import MappingError
from antiphon.kv.transports.nixl_handle import NixlHandle
from antiphon.kv.transports.shared_memory import SharedHandle, map_shared
from antiphon.runtime.device import to_device

Handle = SharedHandle | CudaHandle | NixlHandle  # of one rank's arena
Announce = Callable[[tuple[str, ...], tuple[int, ...]], None]  # keys, and their tickets


class ArenaExport(msgspec.Struct, frozen=True, array_like=True):
    """An arena that other processes may write into. `name`: no other arena has it. `ranks`: of one
    type. The arenas of all are [num_rows, width] of `dtype`, and hold the same states in the same
    rows."""

    name: str
    ranks: tuple[Handle, ...]
    num_rows: int
    width: int
    dtype: str  # such as "bfloat16"

    @property
    def far(self) -> tuple[NixlHandle, ...]:
        """The ranks, where processes of all nodes write to them, by NIXL; else those of their node
        map them."""
        return tuple(handle for handle in self.ranks if isinstance(handle, NixlHandle))


class MappedArena:
    """The arena of a decoder, on all of its ranks."""

    def __init__(self, export: ArenaExport, device: torch.device) -> None:
        """`device`: that of the encoder. Raises MappingError."""
        self.name, self.device = export.name, device
        self.dtype: torch.dtype = getattr(torch, export.dtype)
        self._shape = export.num_rows, export.width
        self._shared: list[torch.Tensor] = []
        self._cuda: list[CudaMapping] = []
        try:
            for handle in export.ranks:
                self._map(handle)
        except MappingError:
            self.close()
            raise
        addresses = np.array([mapping.address for mapping in self._cuda], np.int64)
        self._targets = to_device(addresses, device) if self._cuda else None

    def _map(self, handle: Handle) -> None:
        is_cpu = self.device.type == "cpu"
        if isinstance(handle, SharedHandle) and is_cpu:
            self._shared.append(map_shared(handle, self._shape, self.dtype))
        elif not isinstance(handle, CudaHandle) or is_cpu:
            raise MappingError(f"an encoder on {self.device.type} cannot write to its memory")
        elif self.dtype not in ROW_COPY_DTYPES:
            raise MappingError(f"no kernel writes {self.dtype}")
        else:
            self._cuda.append(CudaMapping(handle, self.device))

    @property
    def kind(self) -> str:
        """How the memory is shared."""
        return "CUDA IPC" if self._cuda else "shared memory"

    def write(self, packed: torch.Tensor, rows: np.ndarray) -> None:
        """Queues the copy of `packed` [tokens, width] to `rows` [tokens], in all ranks' arenas."""
        if packed.shape != (len(rows), self._shape[1]):
            raise ValueError(
                f"hidden states of shape {list(packed.shape)} for {len(rows)} rows of "
                f"{self._shape[1]}"
            )
        for arena in self._shared:
            write_runs(arena, rows, packed)
        if self._targets is not None:
            from antiphon.kernels.row_copy import copy_rows  # Triton is there where CUDA is

            copy_rows(packed, to_device(rows, self.device), self._targets, self.dtype)

    def close(self) -> None:
        """No write may be under way."""
        self._shared = []
        while self._cuda:
            self._cuda.pop().close()


def write_runs(arena: torch.Tensor, rows: np.ndarray, packed: torch.Tensor) -> None:
    """Copies `packed` to `rows` of `arena` in the host's memory: neighboring rows,
    which most are, in one copy."""
    for start, count in zip(*runs_of(rows), strict=True):
        first = rows[start]
        arena[first : first + count].copy_(packed[start : start + count])


def runs_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of neighboring rows start in `rows`, and how long they are."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    return starts, np.diff(starts, append=len(rows))


class Mapped(Transport):
    """`announce` tells the decoder which states are written; it must not block."""

    def __init__(self, announce: Announce, arena: MappedArena) -> None:
        self._announce, self.arena = announce, arena
        self.name, self.kind = arena.name, arena.kind
        self._queued: deque[tuple[tuple[str, ...], tuple[int, ...]]] = deque()  # oldest first
        self._closing = False

    def queued(self, states: HiddenStates, places: Sequence[Place] = ()) -> None:
        rows = np.concatenate([place.rows for place in places])
        self.arena.write(states.packed, rows)
        self._queued.append((states.keys, tuple(place.ticket for place in places)))

    def computed(self) -> Sent:
        self._announce(*self._queued.popleft())
        self._close_if_idle()
        return None

    def close(self) -> None:
        """Its decoder has ended: unmaps the arena once no write is under way."""
        self._closing = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing and not self._queued:
            self.arena.close()
