"""Takes the memory through which norms sum over ranks, and tries it out."""

from collections.abc import Callable

import torch

from antiphon.kernels.shared_rows import SharedRows
from antiphon.runtime.groups import Group
from antiphon.runtime.symmetric_memory import SymmetricMemoryError, TorchBuffer, together

ROWS, WIDTH, TURNS = 64, 1024, 4  # of the trial


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
    x, term = (torch.full((ROWS, WIDTH), float(n), device=device) for n in (1, shared.rank + 1))
    for _ in range(TURNS):
        x, _, _ = summed_norm(x, term, weight, None, 1e-6, shared)
    if not bool((x == 1 + TURNS * shared.size * (shared.size + 1) // 2).all()):
        raise SymmetricMemoryError("sums inside norms are wrong between these devices")
