"""Normalisation, and where it stands around a sublayer."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root-mean-square norm without mean or bias (Zhang and Sennrich 2019), as T5 has it; statistics in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(self.weight.dtype)


def residual(x: torch.Tensor, norm: nn.Module, sublayer: Callable[[torch.Tensor], torch.Tensor], pre_norm: bool) -> torch.Tensor:
    """`x + sublayer(norm(x))`, or with post-norm `norm(x + sublayer(x))`."""
    if pre_norm:
        return x + sublayer(norm(x))
    return norm(x + sublayer(x))
