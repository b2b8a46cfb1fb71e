"""int8 linear layers, with one scale per output of the weight.

On a CPU inputs become int8 too, with one scale per token, for integer dot products. On
a GPU only the weight is int8: it takes half the memory, and a step of a small batch
half the time to read it.
"""

import torch
from torch.nn import functional as F

from antiphon.kernels.formats import INT8, INT8_MAX
from antiphon.layers.linear import Linear, LinearMethod, as_tensor
from antiphon.layers.norms import LinearInput
from antiphon.layers.quantization.rows import QuantizedRows, row_scales


def to_int8(layer: Linear) -> None:
    """Quantizes the layer's weight: values [out, in] int8, scale [out, 1] of its precision."""
    weight = layer.weight.data
    method: LinearMethod = Int8WeightOnly()
    if weight.device.type == "cpu":
        from antiphon.kernels.cpu_int8 import make_kernels_ready  # Numba is loaded where it is used

        make_kernels_ready()
        method = Int8Product(weight.dtype)
    # Rounded before the division, so that it is also what the values will be multiplied by.
    scale = row_scales(weight, INT8).to(weight.dtype)
    values = (weight.float() / scale.float()).round_().clamp_(-INT8_MAX, INT8_MAX).to(INT8)
    layer.quantize(values, scale, method)


class Int8Product(LinearMethod):
    """On a CPU: an integer product, scaled behind it. Outputs are of `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        from antiphon.kernels.cpu_int8 import rescale

        rows = x if isinstance(x, QuantizedRows) else QuantizedRows.int8(as_tensor(x))
        assert layer.weight_scale is not None
        product = torch._int_mm(rows.values, layer.weight.t())
        return rescale(product, rows.scales, layer.weight_scale, layer.bias).to(self.dtype)

    def quantize_input(self, x: torch.Tensor) -> QuantizedRows:
        return QuantizedRows.int8(x)


class Int8WeightOnly(LinearMethod):
    """On a GPU: the weight is multiplied out to the model's precision before each product."""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        assert layer.weight_scale is not None
        return F.linear(as_tensor(x), layer.weight * layer.weight_scale, layer.bias)
