"""int8 linear layers, with one scale per output of the weight.

On a CPU inputs become int8 too, with one scale per token, for integer dot products. On
a GPU only the weight is int8: it takes half the memory, and a step of a small batch
half the time to read it.
"""

from functools import cache

import torch
from torch.nn import functional as F

from antiphon.kernels.formats import INT8, INT8_MAX
from antiphon.layers.linear import Linear, LinearMethod, as_tensor
from antiphon.layers.norms import LinearInput
from antiphon.layers.quantization.dequantized import input_codes
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.quantization.rows import QuantizedRows, row_scales

FEW_ROWS = 64  # up to which torch's operator for int8 weights beats multiplying them out
SCALAR_ROWS = 2  # up to which torch's integer product is quick on every CPU


def to_int8(layer: Linear) -> None:
    """Quantizes the layer's weight: values [out, in] int8, scale [out, 1] of its precision."""
    weight = layer.weight.data
    method: LinearMethod = Int8WeightOnly()
    if weight.device.type == "cpu":
        Int8Product.make_ready()
        method = Int8Product(weight.dtype)
    # Rounded before the division, so that it is also what the values will be multiplied by.
    scale = row_scales(weight, INT8).to(weight.dtype)
    values = (weight.float() / scale.float()).round_().clamp_(-INT8_MAX, INT8_MAX).to(INT8)
    layer.quantize(values, scale, method)


@cache
def multiplies_integers() -> bool:
    """Whether torch's integer product uses this CPU's vectors. Without AVX-512 it is a plain loop,
    20 times slower than the same in float32."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def integer_product(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`codes` [tokens, in] by `weight` [out, in], both int8, as int32 [tokens, out]."""
    if len(codes) <= SCALAR_ROWS or multiplies_integers():
        return torch._int_mm(codes, weight.t())
    # Exact up to 2^24, which sums of a thousand of the largest products reach; near beyond.
    return F.linear(codes.float(), weight.float()).to(torch.int32)


class Int8Product(LinearMethod):
    """On a CPU: an integer product, scaled behind it. Outputs are of `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    @staticmethod
    def make_ready() -> None:
        """Compiles its kernels, where they are not."""
        from antiphon.kernels.cpu_int8 import make_kernels_ready  # Numba is loaded where it is used

        make_kernels_ready()

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        from antiphon.kernels.cpu_int8 import rescale

        rows = x if isinstance(x, QuantizedRows) else QuantizedRows.int8(as_tensor(x))
        assert layer.weight_scale is not None
        product = integer_product(rows.values, layer.weight)
        return rescale(product, rows.scales, layer.weight_scale, layer.bias).to(self.dtype)

    def quantize_input(self, x: torch.Tensor) -> QuantizedRows:
        return QuantizedRows.int8(x)


class OffsetInt8Product(LinearMethod):
    """On a CPU, for inputs whose scale a checkpoint holds, or which have zero points."""

    def __init__(self, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        assert weight.inputs is not None
        self.inputs, self.dtype = weight.inputs, dtype
        self.sums = weight.values.sum(1, dtype=torch.int32).float()  # [out]

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        codes, scales, zeros = input_codes(as_tensor(x).float(), self.inputs)
        assert layer.weight_scale is not None
        product = integer_product(codes.to(INT8), layer.weight).float() - zeros * self.sums
        scaled = product * scales * layer.weight_scale.float().t()
        return (scaled if layer.bias is None else scaled + layer.bias).to(self.dtype)


class Int8WeightOnly(LinearMethod):
    """The weight is multiplied out to the model's precision before each product."""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        assert layer.weight_scale is not None
        return F.linear(as_tensor(x), layer.weight * layer.weight_scale, layer.bias)


class Int8WeightOnlyOnCPU(Int8WeightOnly):
    """In bfloat16: few rows by torch's operator, which reads int8 weights as they are."""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        rows, scale = as_tensor(x), layer.weight_scale
        assert scale is not None
        if len(rows) > FEW_ROWS:
            return super().product(layer, rows)
        product = torch._weight_int8pack_mm(rows.contiguous(), layer.weight, scale.flatten())
        return product if layer.bias is None else product + layer.bias
