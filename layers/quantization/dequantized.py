"""Products with any quantised weight, multiplied out anew for each product.

It stays small in memory. This is the reference of the faster ways, and what computes schemes that
no faster one has on a device.
"""

import torch
from torch.nn import functional as F

from antiphon.families.quantization.scheme import InputScheme
from antiphon.kernels.formats import FLOAT8, INT8_MAX, LARGEST, SMALLEST_SCALE
from antiphon.layers.linear import Linear, LinearMethod, as_tensor
from antiphon.layers.norms import LinearInput
from antiphon.layers.quantization.quantized_weight import QuantizedInput


class DequantizedProduct(LinearMethod):
    """Inputs are rounded as the scheme says, and all is computed in the model's precision."""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        weight, rows = layer.quantized, as_tensor(x)
        assert weight is not None
        if weight.inputs is not None:
            rows = rounded(rows, weight.inputs)
        return F.linear(rows, weight.dequantized(rows.dtype), layer.bias)


def rounded(x: torch.Tensor, inputs: QuantizedInput) -> torch.Tensor:
    """`x` [tokens, in] as its quantised numbers stand for it."""
    scheme = inputs.scheme
    if scheme.dynamic:
        size = scheme.group or x.shape[1]
        padded = F.pad(x.float(), (0, -x.shape[1] % size)).unflatten(1, (-1, size))
        scale, zero = _dynamic(padded, scheme)
        return _rounded(padded, scale, zero, scheme).flatten(1)[:, : x.shape[1]].to(x.dtype)
    assert inputs.scale is not None
    zero = 0.0 if inputs.zero is None else inputs.zero
    return _rounded(x.float(), inputs.scale, zero, scheme).to(x.dtype)


def _dynamic(x: torch.Tensor, scheme: InputScheme) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Scales and zero points of `x` [..., features], one for each vector."""
    if scheme.symmetric:
        largest = x.abs().amax(-1, keepdim=True)
        if scheme.limit is not None:
            largest = largest.clamp(max=scheme.limit)
        most = LARGEST[FLOAT8] if scheme.kind == "float" else INT8_MAX
        return largest.clamp(min=SMALLEST_SCALE) / most, 0.0
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=SMALLEST_SCALE) / 255
    return scale, torch.round(-128 - low / scale)


def _rounded(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | float, scheme: InputScheme
) -> torch.Tensor:
    if scheme.kind == "float":
        most = LARGEST[FLOAT8]
        return (x / scale).clamp(-most, most).to(FLOAT8).float() * scale
    codes = torch.round(x / scale + zero).clamp(-128, 127)
    return (codes - zero) * scale
