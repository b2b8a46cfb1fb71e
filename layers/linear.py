"""Linear layers, in the model's precision or quantised, and activations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.layers.float8 import FLOAT8, FLOAT8_MAX


@dataclass(frozen=True)
class Quantised:
    """Rows of float8 with a scale each: row i is `values[i] * scales[i]`."""

    values: torch.Tensor  # [tokens, features] float8_e4m3fn
    scales: torch.Tensor  # [tokens, 1] float32

    @classmethod
    def of(cls, x: torch.Tensor) -> "Quantised":
        """`x` [tokens, features], each row scaled by its own largest element."""
        if x.device.type == "cuda":
            from antiphon.layers.triton_norms import quantise_rows  # Triton is there where CUDA is

            return cls(*quantise_rows(x))
        scales = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / FLOAT8_MAX
        return cls((x.float() / scales).to(FLOAT8), scales)


@dataclass(frozen=True)
class Normed:
    """`norm` of `x` [tokens, features], left to the linear layer that reads it."""

    x: torch.Tensor
    norm: Any  # LayerNorm or RMSNorm

    def __len__(self) -> int:
        return len(self.x)


FEW_ROWS = 4  # at most; above, the vendor's matrix products are faster
Features = torch.Tensor | Quantised | Normed  # [tokens, features], as a linear layer takes them


class Linear(nn.Module):
    """`x @ weight.T + bias`. After `quantise`, both sides are float8: the weight with a scale for each output feature, the input
    with one for each token, found as it comes (dynamic quantisation)."""

    fuses_few_rows = False  # with what lies around it, in a kernel of our own

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        self.weight_scales: torch.Tensor | None = None  # [1, out] float32

    def forward(self, x: Features, activation: "Activation | None" = None) -> Any:
        """[tokens, in] -> [tokens, out]; with an `activation`, what that makes of it."""
        if self.takes(x):
            return self._few_rows(x, activation, None)
        given = x.norm(x.x) if isinstance(x, Normed) else x
        if activation is None:
            return self._product(given)
        if isinstance(given, torch.Tensor) and self.bias is not None and not activation.quantises:
            return activated_product(given, self.weight, self.bias, activation)
        return activation(self._product(given))

    def added(self, x: Features, residual: torch.Tensor) -> torch.Tensor:
        """`residual` [tokens, out] plus this layer's output; only where `takes(x)`."""
        return self._few_rows(x, None, residual)

    def takes(self, x: Features) -> bool:
        """Goes through the kernel for few rows."""
        return self.fuses_few_rows and not isinstance(x, Quantised) and len(x) <= FEW_ROWS

    def _few_rows(self, x: Features, activation: "Activation | None", residual: torch.Tensor | None) -> torch.Tensor:
        from antiphon.layers.triton_linear import linear  # Triton is there where CUDA is

        assert not isinstance(x, Quantised)
        kind = None if activation is None else activation.kind
        if isinstance(x, Normed):
            norm = (x.norm.weight, getattr(x.norm, "bias", None), x.norm.eps)
            return linear(x.x, self.weight, self.bias, norm=norm, activation=kind, residual=residual)
        return linear(x, self.weight, self.bias, activation=kind, residual=residual)

    def _product(self, x: torch.Tensor | Quantised) -> torch.Tensor:
        if self.weight_scales is None:
            assert isinstance(x, torch.Tensor)
            return F.linear(x, self.weight, self.bias)
        given = x if isinstance(x, Quantised) else Quantised.of(x)
        if given.values.device.type == "cpu":  # the reference: what the products of float8 numbers are
            weight = self.weight.float() * self.weight_scales.t()
            found = F.linear(given.values.float() * given.scales, weight)
            return (found if self.bias is None else found + self.bias.float()).to(self.dtype)
        return torch._scaled_mm(
            given.values,
            self.weight.t(),
            scale_a=given.scales,
            scale_b=self.weight_scales,
            bias=self.bias,
            out_dtype=self.dtype,
            use_fast_accum=True,
        )

    def quantise(self) -> None:
        self.dtype = self.weight.dtype  # of the output
        quantised = Quantised.of(self.weight.data)
        self.weight = nn.Parameter(quantised.values, requires_grad=False)
        self.weight_scales = quantised.scales.t().contiguous()


class StackedLinear(Linear):
    """Several projections of the same input as one matrix product: query, key and value, or gate and up.

    A checkpoint stores them apart as `<parent>.<part>.weight`; the loader stacks them row by row, in order of `parts`.
    `unbiased` parts have no bias there and get zeros (Whisper's key projection).
    """

    def __init__(self, in_features: int, out_features: dict[str, int], bias: bool, unbiased: tuple[str, ...] = ()) -> None:
        super().__init__(in_features, sum(out_features.values()), bias)
        self.parts, self.unbiased = out_features, unbiased

    def split(self, x: Features) -> tuple[torch.Tensor, ...]:
        """[tokens, in] -> one [tokens, out] per part (views of one buffer)."""
        found: torch.Tensor = self(x)
        return found.split(list(self.parts.values()), dim=-1)


KINDS = {
    "relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu", "swish": "silu",
}  # fmt: skip
_IN_TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


def activated_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: "Activation") -> Any:
    """`activation(x @ weight.T + bias)` [tokens, out] for `x` [tokens, in].

    In half precision on a GPU, cuBLAS applies it where it has the product in registers. Its GELU is the tanh form, within 5e-4 of
    the exact one: less than what rounding the product to half precision first does.
    """
    half = x.device.type == "cuda" and x.dtype != torch.float32
    if half and activation.kind in ("relu", "gelu", "gelu_tanh"):
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=activation.kind != "relu")
    return activation(F.linear(x, weight, bias))


class Activation(nn.Module):
    """By transformers' name; with a gate, the product of both (Shazeer 2020)."""

    quantises = False  # its output goes into a quantised linear layer

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kind = KINDS[name]

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor | Quantised:
        """[tokens, features], rows contiguous."""
        if x.device.type == "cuda" and x.dtype != torch.float32:
            from antiphon.layers.triton_norms import activation, activation_quantised  # Triton is there where CUDA is

            if not self.quantises:
                return activation(self.kind, x, gate)
            # The tanh form is cheaper and within 5e-4 of the exact one: far less than a step of float8.
            return Quantised(*activation_quantised("gelu_tanh" if self.kind == "gelu" else self.kind, x, gate))
        found = _IN_TORCH[self.kind](x)
        return found if gate is None else found * gate
