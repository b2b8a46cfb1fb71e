"""Eight-bit tensors and their products, in float8 and in int8.

float8: both sides, with a scale for each output feature of the weight and each token of the input, on tensor cores.
int8, on a CPU: the same, on its integer dot products. int8, on a GPU: the weight alone; it takes half the memory, and a decoder step
of few rows half the time to read it.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from antiphon.kernels.formats import FLOAT8, INT8, INT8_MAX, LARGEST, SMALLEST_SCALE


@dataclass(frozen=True)
class Quantised:
    """Rows of eight-bit numbers with a scale each: row i is `values[i] * scales[i]`."""

    values: torch.Tensor  # [tokens, features] float8_e4m3fn or int8
    scales: torch.Tensor  # [tokens, 1] float32

    @classmethod
    def of(cls, x: torch.Tensor, dtype: torch.dtype = FLOAT8) -> "Quantised":
        """`x` [tokens, features], each row scaled by its own largest element. int8: on a CPU."""
        if dtype == FLOAT8 and x.device.type == "cuda":
            from antiphon.kernels.norms import quantise_rows  # Triton is there where CUDA is

            return cls(*quantise_rows(x))
        if dtype == INT8:
            from antiphon.kernels.cpu_int8 import (
                quantise_rows as quantise_on_cpu,  # Numba is loaded where it is used
            )

            return cls(*quantise_on_cpu(x.float().contiguous()))
        scales = row_scales(x, dtype)
        return cls((x.float() / scales).to(dtype), scales)


def row_scales(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[rows, 1] float32: with it, a row's largest element becomes the largest number of `dtype`."""
    return x.float().abs().amax(-1, keepdim=True).clamp(min=SMALLEST_SCALE) / LARGEST[dtype]


@dataclass(frozen=True)
class Float8Weight:
    values: torch.Tensor  # [out, in] float8_e4m3fn
    scales: torch.Tensor  # [1, out] float32
    dtype: torch.dtype  # of the product

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Float8Weight":
        found = Quantised.of(weight)
        return cls(found.values, found.scales.t().contiguous(), weight.dtype)

    def prepared(self, x: torch.Tensor | Quantised) -> Quantised:
        return x if isinstance(x, Quantised) else Quantised.of(x)

    def product(self, x: torch.Tensor | Quantised, bias: torch.Tensor | None) -> torch.Tensor:
        """[tokens, in] -> [tokens, out]"""
        given = self.prepared(x)
        if (
            given.values.device.type == "cpu"
        ):  # the reference: what the products of float8 numbers are
            found = F.linear(
                given.values.float() * given.scales, self.values.float() * self.scales.t()
            )
            return (found if bias is None else found + bias.float()).to(self.dtype)
        return torch._scaled_mm(
            given.values, self.values.t(), scale_a=given.scales, scale_b=self.scales, bias=bias, out_dtype=self.dtype,
            use_fast_accum=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Int8Weight:
    values: torch.Tensor  # [out, in] int8
    scales: (
        torch.Tensor
    )  # [out, 1] of the model's precision, in which `values * scales` is computed on a GPU
    dtype: torch.dtype

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Int8Weight":
        if weight.device.type == "cpu":
            from antiphon.kernels.cpu_int8 import (
                make_kernels_ready,  # Numba is loaded where it is used
            )

            make_kernels_ready()
        scales = row_scales(weight, INT8).to(
            weight.dtype
        )  # rounded first: what it is divided by is what it will be multiplied by
        values = (weight.float() / scales.float()).round_().clamp_(-INT8_MAX, INT8_MAX).to(INT8)
        return cls(values, scales, weight.dtype)

    def prepared(self, x: torch.Tensor | Quantised) -> torch.Tensor | Quantised:
        return (
            Quantised.of(x, INT8) if isinstance(x, torch.Tensor) and x.device.type == "cpu" else x
        )

    def product(self, x: torch.Tensor | Quantised, bias: torch.Tensor | None) -> torch.Tensor:
        """[tokens, in] -> [tokens, out]"""
        given = self.prepared(x)
        if isinstance(given, torch.Tensor):
            return F.linear(given, self.values * self.scales, bias)
        from antiphon.kernels.cpu_int8 import rescale

        found = torch._int_mm(given.values, self.values.t())
        return rescale(found, given.scales, self.scales, bias).to(self.dtype)
