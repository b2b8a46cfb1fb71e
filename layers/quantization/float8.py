"""float8 linear layers: both sides of the product in float8, on tensor cores.

The weight has one scale per output, the input one per token. On a GPU the norm or the
activation before such a layer stores float8 rows itself.
"""

import torch
from torch.nn import functional as F

from antiphon.kernels.formats import FLOAT8
from antiphon.layers.activations import ActivationMethod
from antiphon.layers.linear import Linear, LinearMethod, as_tensor
from antiphon.layers.norms import FusedNorm, LinearInput, Norm, pending_terms
from antiphon.layers.quantization.dequantized import input_codes
from antiphon.layers.quantization.quantized_weight import QuantizedInput
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import RankTerm, Residual


def to_float8(layer: Linear) -> None:
    """Quantizes the layer's weight: values [out, in] float8_e4m3fn, scale [1, out] float32."""
    weight = QuantizedRows.float8(layer.weight.data)
    kind = Float8Product if layer.device.type == "cuda" else Float8Reference
    method = kind(layer.weight.dtype)
    layer.quantize(weight.values, weight.scales.t().contiguous(), method)


class Float8Product(LinearMethod):
    """On a GPU. Outputs are of `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        rows = self.rows(x)
        assert layer.weight_scale is not None
        return torch._scaled_mm(
            rows.values,
            layer.weight.t(),
            scale_a=rows.scales,
            scale_b=layer.weight_scale,
            bias=layer.bias,
            out_dtype=self.dtype,
            use_fast_accum=True,
        )

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor | QuantizedRows:
        return QuantizedRows.float8(x)

    def rows(self, x: LinearInput) -> QuantizedRows:
        return x if isinstance(x, QuantizedRows) else QuantizedRows.float8(as_tensor(x))


class Float8Reference(Float8Product):
    """On a CPU: the product of the same float8 numbers, computed in float32."""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        rows = self.rows(x)
        assert layer.weight_scale is not None
        weight = layer.weight.float() * layer.weight_scale.t()
        bias = None if layer.bias is None else layer.bias.float()
        return F.linear(rows.values.float() * rows.scales, weight, bias).to(self.dtype)


class StaticFloat8Product(Float8Product):
    """On a GPU, where a checkpoint says how inputs are scaled: by one number, or up to a limit."""

    def __init__(self, dtype: torch.dtype, inputs: QuantizedInput) -> None:
        super().__init__(dtype)
        self.inputs = inputs

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        """As it is: layers differ in their scales."""
        return x

    def rows(self, x: LinearInput) -> QuantizedRows:
        values, scales, _ = input_codes(as_tensor(x).float(), self.inputs)
        return QuantizedRows(values.to(FLOAT8), scales.expand(len(values), 1).contiguous())


class Float8Norm(FusedNorm):
    """Stores the norm as float8 rows: of norms whose output goes into float8 layers alone."""

    def norm(self, norm: Norm, residual: Residual) -> tuple[LinearInput, Residual]:
        from antiphon.kernels.norms import add_norm_quantized  # Triton exists where CUDA does

        if isinstance(residual.pending, RankTerm):
            total, values, row_scales = self.of_ranks(norm, residual.x, residual.pending, True)
            assert row_scales is not None
            return QuantizedRows(values, row_scales), Residual(total)
        sums, bias = pending_terms(residual.pending)
        total, values, scales = add_norm_quantized(
            residual.x, sums, bias, norm.weight, norm.bias, norm.eps
        )
        return QuantizedRows(values, scales), Residual(total)


class Float8Activation(ActivationMethod):
    """Stores float8 rows: of activations whose output goes into float8 layers alone."""

    quantizes = True

    def activate(self, kind: str, x: torch.Tensor, gate: torch.Tensor | None) -> QuantizedRows:
        from antiphon.kernels.norms import activation_quantized  # Triton exists where CUDA does

        # GELU's tanh form is cheaper and within 5e-4 of the exact one: far below a step of float8.
        kind = "gelu_tanh" if kind == "gelu" else kind
        return QuantizedRows(*activation_quantized(kind, x, gate))
