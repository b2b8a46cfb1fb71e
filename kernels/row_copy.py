"""Triton kernel that copies rows to given rows of tensors which may be another GPU's memory.

torch copies between devices by the copy engines, which takes milliseconds to set up
whatever the size; and what is mapped from a GPU that this process cannot see is no
tensor for it.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import ROW_COPY_DTYPES

TRITON_TYPES = {dtype: getattr(tl, str(dtype).removeprefix("torch.")) for dtype in ROW_COPY_DTYPES}


@triton.jit
def _copy_rows_kernel(
    source, rows, targets, width, source_row, TARGET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program copies one row to one target."""
    token = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + tl.program_id(1)).to(tl.pointer_type(TARGET))
    target += tl.load(rows + token).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(source + token * source_row + column, mask=inside)
    tl.store(target + column, values.to(TARGET), mask=inside)


def copy_rows(
    source: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
) -> None:
    """Copies `source` [tokens, width], whose rows are contiguous, to rows `rows`
    [tokens] of matrices [.., width] of `dtype`.

    `targets` [copies] int64: the addresses of the matrices, each of which gets all rows.
    """
    if not len(source):
        return
    _copy_rows_kernel[(len(source), len(targets))](
        source, rows, targets, source.shape[1], source.stride(0),
        TARGET=TRITON_TYPES[dtype], BLOCK=triton.next_power_of_2(source.shape[1]),
    )  # fmt: skip
