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


Codes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def rounded(x: torch.Tensor, inputs: QuantizedInput) -> torch.Tensor:
    """`x` [tokens, in] as its quantised numbers stand for it."""
    size = inputs.scheme.group or x.shape[1]
    vectors = F.pad(x.float(), (0, -x.shape[1] % size)).unflatten(1, (-1, size))
    codes, scales, zeros = input_codes(vectors, inputs)
    return ((codes - zeros) * scales).flatten(1)[:, : x.shape[1]].to(x.dtype)


def input_codes(x: torch.Tensor, inputs: QuantizedInput) -> Codes:
    """`x` [..., features] float32 as codes of the same shape and dtype, with the scale and the
    zero point of each vector of features [..., 1], or one of all: it stands for
    `(codes - zeros) * scales`."""
    scheme = inputs.scheme
    scales, zeros = _dynamic(x, scheme) if inputs.scale is None else (inputs.scale, inputs.zero)
    if zeros is None:
        zeros = torch.zeros_like(scales)
    if scheme.kind == "float":
        most = LARGEST[FLOAT8]
        return (x / scales).clamp(-most, most).to(FLOAT8).float(), scales, zeros
    return torch.round(x / scales + zeros).clamp(-128, 127), scales, zeros


def _dynamic(x: torch.Tensor, scheme: InputScheme) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zero points of `x` [..., features], one for each vector."""
    if scheme.symmetric:
        largest = x.abs().amax(-1, keepdim=True)
        if scheme.limit is not None:
            largest = largest.clamp(max=scheme.limit)
        most = LARGEST[FLOAT8] if scheme.kind == "float" else INT8_MAX
        return largest.clamp(min=SMALLEST_SCALE) / most, None
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scales = (high - low).clamp(min=SMALLEST_SCALE) / 255
    return scales, torch.round(-128 - low / scales)
