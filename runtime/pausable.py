"""A group that can be told to exchange nothing for a while."""

import torch

from antiphon.kernels.shared_rows import SharedRows
from antiphon.runtime.groups import Group


class Pausable(Group):
    """`group`; while `paused`, every call returns at once, with the right shape and any content."""

    def __init__(self, group: Group) -> None:
        self.rank, self.size = group.rank, group.size
        self.paused = False
        self._group = group
        self._paused_rows: SharedRows | None = None  # once a pause has asked for them

    def resume(self) -> None:
        """Ends a pause, and frees what it took."""
        self.paused, self._paused_rows = False, None

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.paused else self._group.all_reduce(x)

    def shared_rows(self, x: torch.Tensor) -> SharedRows | None:
        shared = self._group.shared_rows(x)
        if not self.paused or shared is None:
            return shared
        if self._paused_rows is None:
            self._paused_rows = shared.paused()
        return self._paused_rows

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(self.size, *x.shape) if self.paused else self._group.all_gather(x)

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        if not self.paused:
            self._group.broadcast(x, source)

    def send(self, x: torch.Tensor, target: int) -> None:
        if not self.paused:
            self._group.send(x, target)

    def receive(self, into: torch.Tensor, source: int) -> None:
        if not self.paused:
            self._group.receive(into, source)

    def barrier(self) -> None:
        if not self.paused:
            self._group.barrier()

    def close(self) -> None:
        self._group.close()
