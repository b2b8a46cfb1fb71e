"""Takes the memory through which norms sum over ranks, and tries it out."""

from collections.abc import Callable

import torch

from antiphon.kernels.shared_rows import PUSHED_ROWS, SharedRows
from antiphon.runtime.groups import Group
from antiphon.runtime.symmetric_memory import SymmetricMemoryError, TorchBuffer, together

ROWS, WIDTH = (PUSHED_ROWS, PUSHED_ROWS + 1), 1024  # of the trial: few and many, in turns
TURNS = 3


def share_rows(group: Group, make: Callable[[], TorchBuffer], device: torch.device) -> SharedRows:
    """Maps the memory that `make` takes on each rank of `group`; all ranks call this at once.

    Raises SymmetricMemoryError on all ranks where any of them cannot, or where sums are wrong.
    """
    with together(group, device):
        buffer = make()
        buffer.memory.zero_()
        torch.cuda.synchronize(device)  # before another rank may write there
    with together(group, device):
        buffer.connect()
    shared = SharedRows.of(buffer.memory, buffer.addresses, group.rank)
    with together(group, device):
        _try_out(shared, device)
    return shared


def _try_out(shared: SharedRows, device: torch.device) -> None:
    from antiphon.kernels.summed_norm import summed_norm  # Triton exists where CUDA does

    weight = torch.ones(WIDTH, device=device)
    streams = [torch.ones(rows, WIDTH, device=device) for rows in ROWS]
    terms = [torch.full_like(x, shared.rank + 1.0) for x in streams]
    for _ in range(TURNS):
        streams = [
            summed_norm(x, term, weight, None, 1e-6, shared)[0]
            for x, term in zip(streams, terms, strict=True)
        ]
    right = 1 + TURNS * shared.size * (shared.size + 1) // 2
    if not all(bool((x == right).all()) for x in streams):
        raise SymmetricMemoryError("sums inside norms are wrong between these devices")
