"""Rows of eight-bit numbers with one scale per row: how quantized layers take their inputs."""

from dataclasses import dataclass

import torch

from antiphon.kernels.formats import FLOAT8, LARGEST, SMALLEST_SCALE


@dataclass(frozen=True)
class QuantizedRows:
    """Row i stands for `values[i] * scales[i]`."""

    values: torch.Tensor  # [tokens, features] float8_e4m3fn or int8
    scales: torch.Tensor  # [tokens, 1] float32

    @classmethod
    def float8(cls, x: torch.Tensor) -> "QuantizedRows":
        """`x` [tokens, features], each row scaled by its own largest element."""
        if x.device.type == "cuda":
            from antiphon.kernels.norms import quantize_rows  # Triton exists where CUDA does

            return cls(*quantize_rows(x))
        scales = row_scales(x, FLOAT8)
        return cls((x.float() / scales).to(FLOAT8), scales)

    @classmethod
    def int8(cls, x: torch.Tensor) -> "QuantizedRows":
        """As `float8`, on a CPU only."""
        from antiphon.kernels.cpu_int8 import quantize_rows  # Numba is loaded where it is used

        return cls(*quantize_rows(x.float().contiguous()))


def row_scales(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 1] float32: what maps a row's largest element to the largest number of `dtype`."""
    return x.float().abs().amax(-1, keepdim=True).clamp(min=SMALLEST_SCALE) / LARGEST[dtype]
