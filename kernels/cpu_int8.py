"""Numba kernels around an int8 product on a CPU: one pass over memory before it, one behind."""

import numba
import numpy as np
import torch

from antiphon.kernels.formats import INT8, INT8_MAX, SMALLEST_SCALE
from antiphon.kernels.numba_cache import compiled, make_ready

LARGEST = np.float32(INT8_MAX)
LEAST = np.float32(INT8_MAX * SMALLEST_SCALE)  # largest element of a row of zeros: it has a scale


@compiled(parallel=True, fastmath=True)
def _quantize(x: np.ndarray, values: np.ndarray, scales: np.ndarray) -> None:
    for row in numba.prange(x.shape[0]):
        largest = LEAST
        for i in range(x.shape[1]):
            largest = max(largest, abs(x[row, i]))
        scales[row, 0] = largest / LARGEST
        factor = LARGEST / largest
        for i in range(x.shape[1]):
            values[row, i] = np.int8(np.rint(x[row, i] * factor))


@compiled(parallel=True, fastmath=True)
def _rescale(
    product: np.ndarray,
    scales: np.ndarray,
    weight_scales: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    for row in numba.prange(product.shape[0]):
        scale = scales[row, 0]
        for i in range(product.shape[1]):
            out[row, i] = np.float32(product[row, i]) * (scale * weight_scales[i]) + bias[i]


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, features] float32 as int8 rows and their scales [tokens, 1]."""
    values = torch.empty(x.shape, dtype=INT8)
    scales = torch.empty((len(x), 1), dtype=torch.float32)
    _quantize(x.numpy(), values.numpy(), scales.numpy())
    return values, scales


def rescale(
    product: torch.Tensor,
    scales: torch.Tensor,
    weight_scales: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """`product * scales * weight_scales + bias` [tokens, out] float32 of an int32 product.

    `scales` [tokens, 1], `weight_scales` [out, 1], `bias` [out].
    """
    out = torch.empty(product.shape, dtype=torch.float32)
    shift = torch.zeros(len(weight_scales)) if bias is None else bias.float()
    _rescale(
        product.numpy(),
        scales.numpy(),
        weight_scales.float().flatten().numpy(),
        shift.numpy(),
        out.numpy(),
    )
    return out


def make_kernels_ready() -> None:
    """Compiles the kernels or reads them from disk, before the first product needs them."""
    x, scales = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    make_ready(_quantize, x, np.zeros((1, 1), np.int8), scales)
    make_ready(_rescale, np.zeros((1, 1), np.int32), scales, scales[0], scales[0], x)
