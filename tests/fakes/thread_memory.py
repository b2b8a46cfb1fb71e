"""Symmetric memory whose ranks are threads of this process."""

from math import prod

import torch
from thread_group import ThreadGroup

from antiphon.runtime.symmetric_memory import TWO_SHOT_BYTES, SharedBuffer


class ThreadBuffer(SharedBuffer):
    """As the kernels of torch: no rank goes on before all have read. `calls`: by name."""

    def __init__(self, group: ThreadGroup) -> None:
        self.group, self.calls = group, list[str]()
        self.content = torch.zeros(TWO_SHOT_BYTES, dtype=torch.uint8)

    def connect(self) -> None:
        self.group.barrier()

    def view(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        return self.content[: prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def one_shot(self, view: torch.Tensor) -> torch.Tensor:
        self.calls.append("one_shot")
        return self.group.all_reduce(view)

    def two_shot(self, view: torch.Tensor) -> None:
        self.calls.append("two_shot")
        view.copy_(self.group.all_reduce(view))
