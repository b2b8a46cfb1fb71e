"""Triton kernel that makes rows float8 with a scale for each group of features."""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import FLOAT8, FLOAT8_MAX, SMALLEST_SCALE
from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.norms import saturated

LARGEST, SMALLEST = tl.constexpr(FLOAT8_MAX), tl.constexpr(SMALLEST_SCALE)
GROUPS = 8  # of a program


@triton.jit
def _group_rows_kernel(
    x, values, scales, groups, x_row,
    SIZE: tl.constexpr, GROUPS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    places = group[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = group < groups
    own = tl.load(x + row * x_row + places, mask=inside[:, None], other=0.0).to(tl.float32)
    # Rounded as everywhere else: features of half precision often lie halfway between two float8,
    # and a scale that is off by its last bit would send all of them to the other one.
    scale = tl.div_rn(tl.maximum(tl.max(tl.abs(own), 1), SMALLEST), LARGEST)
    tl.store(scales + row * groups + group, scale, mask=inside)
    rounded = saturated(tl.div_rn(own, scale[:, None])).to(values.dtype.element_ty)
    tl.store(values + row * groups * SIZE + places, rounded, mask=inside[:, None])


def quantize_groups(x: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` [tokens, features] as float8 of its shape, and scales [tokens, features / size] float32.

    `size` is a power of two.
    """
    groups = x.shape[1] // size
    values = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
    scales = torch.empty((len(x), groups), dtype=torch.float32, device=x.device)
    _group_rows_kernel[(len(x), triton.cdiv(groups, GROUPS))](
        x, values, scales, groups, x.stride(0), SIZE=size, GROUPS=GROUPS, **overlapped(x.device)
    )
    return values, scales
