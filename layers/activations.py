"""Activation functions: what they are, and the ways to compute them."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.layers.quantization.rows import QuantizedRows

GELU_SIGMOID = 1.702  # a sigmoid of x times this is near the normal distribution (CLIP)

# transformers' name -> the function
KINDS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "gelu_sigmoid",
}
IN_TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "gelu_sigmoid": lambda x: x * torch.sigmoid(GELU_SIGMOID * x),
}


class Activation(nn.Module):
    """An activation by transformers' name; with a gate, the product of both (Shazeer 2020).

    `method` says how it is computed, and is chosen once, after loading (`prepare.py`).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kind = KINDS[name]
        self.method: ActivationMethod = TorchActivation()

    def forward(
        self, x: torch.Tensor, gate: torch.Tensor | None = None
    ) -> torch.Tensor | QuantizedRows:
        """[tokens, features] -> the same; the rows of `x` and `gate` are contiguous."""
        return self.method.activate(self.kind, x, gate)


class ActivationMethod(ABC):
    """How activations are computed."""

    quantizes = False  # the output is QuantizedRows

    @abstractmethod
    def activate(
        self, kind: str, x: torch.Tensor, gate: torch.Tensor | None
    ) -> torch.Tensor | QuantizedRows:
        """As `Activation.forward`; `kind` is a value of KINDS."""


class TorchActivation(ActivationMethod):
    """In torch's own operations."""

    def activate(self, kind: str, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        activated = IN_TORCH[kind](x)
        return activated if gate is None else activated * gate


class FusedActivation(ActivationMethod):
    """Activation and gate in one Triton kernel, for half precision."""

    def activate(self, kind: str, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        from antiphon.kernels.norms import activation  # Triton exists where CUDA does

        return activation(kind, x, gate)
