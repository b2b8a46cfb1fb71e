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


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
}
