"""Linear layers."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class StackedLinear(nn.Module):
    """Several projections of the same input as one matrix product: query, key and value, or gate and up.

    A checkpoint stores them apart as `<parent>.<part>.weight`; the loader stacks them row by row, in order of `parts`.
    `unbiased` parts have no bias there and get zeros (Whisper's key projection).
    """

    def __init__(self, in_features: int, out_features: dict[str, int], bias: bool, unbiased: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.parts, self.unbiased = out_features, unbiased
        total = sum(out_features.values())
        self.weight = nn.Parameter(torch.empty(total, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(total), requires_grad=False) if bias else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[tokens, in] -> one [tokens, out] per part (views of one buffer)."""
        return F.linear(x, self.weight, self.bias).split(list(self.parts.values()), dim=-1)


KINDS = {
    "relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu", "swish": "silu",
}  # fmt: skip
_IN_TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


class Activation:
    """By transformers' name; with a gate, the product of both (Shazeer 2020)."""

    def __init__(self, name: str) -> None:
        self.kind = KINDS[name]

    def __call__(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """[tokens, features], rows contiguous."""
        if x.device.type == "cuda" and x.dtype != torch.float32:
            from antiphon.layers.triton_norms import activation  # Triton is there where CUDA is

            return activation(self.kind, x, gate)
        found = _IN_TORCH[self.kind](x)
        return found if gate is None else found * gate
