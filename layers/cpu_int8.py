"""What surrounds an int8 product on a CPU, each in one pass over memory (Numba)."""

import numba
import numpy as np
import torch


@numba.njit(parallel=True, fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def _quantise(x: np.ndarray, values: np.ndarray, scales: np.ndarray, smallest: float) -> None:
    for row in numba.prange(x.shape[0]):
        largest = np.float32(smallest * 127.0)
        for i in range(x.shape[1]):
            largest = max(largest, abs(x[row, i]))
        scales[row, 0] = largest / np.float32(127.0)
        factor = np.float32(127.0) / largest
        for i in range(x.shape[1]):
            values[row, i] = np.int8(np.rint(x[row, i] * factor))


@numba.njit(parallel=True, fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def _rescale(found: np.ndarray, scales: np.ndarray, weight_scales: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    for row in numba.prange(found.shape[0]):
        scale = scales[row, 0]
        for i in range(found.shape[1]):
            out[row, i] = np.float32(found[row, i]) * (scale * weight_scales[i]) + bias[i]


def quantise_rows(x: torch.Tensor, smallest_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, features] float32 as int8 rows and their scales [tokens, 1]."""
    values = torch.empty(x.shape, dtype=torch.int8)
    scales = torch.empty((len(x), 1), dtype=torch.float32)
    _quantise(x.numpy(), values.numpy(), scales.numpy(), smallest_scale)
    return values, scales


def rescale(found: torch.Tensor, scales: torch.Tensor, weight_scales: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`found * scales * weight_scales + bias` [tokens, out] float32 of an int32 product; scales [tokens, 1] and [out, 1]."""
    out = torch.empty(found.shape, dtype=torch.float32)
    shift = torch.zeros(len(weight_scales)) if bias is None else bias.float()
    _rescale(found.numpy(), scales.numpy(), weight_scales.float().flatten().numpy(), shift.numpy(), out.numpy())
    return out
