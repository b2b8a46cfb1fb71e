"""The memory through which `kernels/summed_norm.py` sums rows over ranks."""

from dataclasses import dataclass
from typing import Self

import torch

SLOTS, ROW_BYTES, RANKS = 2048, 16384, 8  # that it has room for
PUSHED_ROWS = 64  # up to which rows are sent as packets: twice the bytes, and one way less
HALVES_BYTES = 2 * SLOTS * ROW_BYTES
FLAGS_BYTES = 4 * SLOTS * RANKS
PACKETS_BYTES = 2 * RANKS * PUSHED_ROWS * 2 * ROW_BYTES
SHARED_BYTES = HALVES_BYTES + FLAGS_BYTES + PACKETS_BYTES


@dataclass(frozen=True)
class SharedRows:
    """Memory of every rank, `SHARED_BYTES` that began as zeros, as rank `rank` of `size` maps it.

    `bases` [size] int64: addresses. `turns` [SLOTS] int32, zeros at first: of this rank alone.
    `memory`: this rank's, [SHARED_BYTES] uint8, which must live as long as this.
    """

    bases: torch.Tensor
    turns: torch.Tensor
    rank: int
    size: int
    memory: torch.Tensor

    @classmethod
    def of(cls, memory: torch.Tensor, addresses: list[int], rank: int) -> Self:
        """`addresses`: of all ranks' memory."""
        bases = torch.tensor(addresses, dtype=torch.int64, device=memory.device)
        turns = torch.zeros(SLOTS, dtype=torch.int32, device=memory.device)
        return cls(bases, turns, rank, len(addresses), memory)

    def paused(self) -> "SharedRows":
        """Of one rank that waits for nobody, in memory of its own."""
        memory = torch.zeros(SHARED_BYTES, dtype=torch.uint8, device=self.memory.device)
        return SharedRows.of(memory, [memory.data_ptr()], 0)

    def has_room(self, term: torch.Tensor) -> bool:
        """For all rows of `term` [rows, width]."""
        rows, width = term.shape
        fits = width * term.itemsize <= ROW_BYTES
        return 0 < rows <= SLOTS and fits and self.size <= RANKS and term.stride(1) == 1


def goes_as_packets(term: torch.Tensor) -> bool:
    """Whether rows of `term` [rows, width], for which there is room, are few and whole packets."""
    elements = 4 // term.itemsize  # of a packet; a thread stores two at once
    whole = term.shape[1] % (2 * elements) == 0 == term.stride(0) % elements
    return whole and len(term) <= PUSHED_ROWS
