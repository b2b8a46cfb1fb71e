"""Ranks on GPUs, over NCCL; small sums by symmetric memory where the GPUs can map each other's."""

import logging
from datetime import timedelta
from functools import partial
from typing import Any, Self

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from antiphon.kernels.shared_rows import SHARED_BYTES, SharedRows
from antiphon.runtime.sharing_rows import share_rows
from antiphon.runtime.symmetric_memory import (
    SUMMED_NORM_BYTES,
    TWO_SHOT_BYTES,
    SymmetricMemoryError,
    SymmetricSum,
    TorchBuffer,
    share_memory,
)
from antiphon.runtime.torch_groups import TorchGroup

logger = logging.getLogger(__name__)


class NcclGroup(TorchGroup):
    """Nothing makes the host wait, but the first use of a kind of call, which connects the ranks.

    Sums and the like run on the current stream. Sends and receives run on a stream that
    torch has for each pair of ranks, one after the other. Behind a receive the current
    stream waits for it; for a send only where too many are on their way.
    """

    def __init__(self, group: Any, rank: int, size: int, device: torch.device) -> None:
        super().__init__(group, rank, size, device)
        self.small_sum: SymmetricSum | None = None
        self._rows: SharedRows | None = None
        self._norm_bytes = 0

    @classmethod
    def join(
        cls, store: Store, rank: int, size: int, device: torch.device, timeout: timedelta
    ) -> Self:
        """With all ranks, which meet over `store` at their first call."""
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return cls(dist.ProcessGroupNCCL(store, rank, size, options), rank, size, device)

    def share_memory(self, store: Store, name: str, norm_bytes: int = SUMMED_NORM_BYTES) -> None:
        """From now on small sums go by symmetric memory, if all ranks can; all call
        this at once. `store`, `name`: as of `TorchBuffer`. `norm_bytes`: up to which
        norms sum over the ranks themselves, over the number of other ranks."""

        def take(part: str, nbytes: int) -> TorchBuffer:
            own_store = PrefixStore(part, store)
            return TorchBuffer(own_store, self._group, f"{name} {part}", self._device, nbytes)

        try:
            small_sums = partial(take, "sums", TWO_SHOT_BYTES)
            self.small_sum = share_memory(self, small_sums, self._device)
        except SymmetricMemoryError as error:
            logger.warning("sums of ranks all go through NCCL: %s", error)
            return
        logger.info("small sums of %d ranks go through symmetric memory", self.size)
        if not norm_bytes:
            return
        try:
            rows = share_rows(self, partial(take, "rows", SHARED_BYTES), self._device)
        except SymmetricMemoryError as error:
            logger.warning("norms do not sum over ranks themselves: %s", error)
        else:
            self._rows, self._norm_bytes = rows, norm_bytes // (self.size - 1)

    def shared_rows(self, x: torch.Tensor) -> SharedRows | None:
        rows = self._rows
        if rows is None or x.nbytes > self._norm_bytes or not rows.has_room(x):
            return None
        return rows

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        if self.small_sum is not None and (total := self.small_sum(x)) is not None:
            return total
        return super().all_reduce(x)

    def _may_forget(self, send: Any) -> bool:
        return bool(send.is_completed())
