"""Normalisation, and the residual stream that it stands in."""

import torch
from torch import nn
from torch.nn import functional as F


class LayerNorm(nn.LayerNorm):
    """With `after`, which takes in a residual: on a GPU in the same pass over memory."""

    def after(self, x: torch.Tensor, delta: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`x + delta` and its norm, both [tokens, hidden]."""
        if x.device.type == "cuda":
            from antiphon.layers.triton_norms import add_norm  # Triton is there where CUDA is

            return add_norm(x, delta, self.weight, self.bias, self.eps)
        total = x if delta is None else x + delta
        return total, self(total)


class RMSNorm(nn.Module):
    """Root-mean-square norm without mean or bias (Zhang and Sennrich 2019), as T5 has it; statistics in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(self.weight.dtype)

    def after(self, x: torch.Tensor, delta: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LayerNorm.after`."""
        if x.device.type == "cuda":
            from antiphon.layers.triton_norms import add_norm

            return add_norm(x, delta, self.weight, None, self.eps)
        total = x if delta is None else x + delta
        return total, self(total)


Norm = LayerNorm | RMSNorm


class ResidualStream:
    """What the sublayers of a transformer read from and add to. What one adds is summed when the next norm reads it, so that
    sum and norm pass over memory once."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x  # [tokens, hidden]
        self._added: torch.Tensor | None = None

    def normed(self, norm: Norm) -> torch.Tensor:
        """`norm` of the stream, which stays as it is (pre-norm)."""
        self._x, found = norm.after(self._x, self._added)
        self._added = None
        return found

    def renew(self, norm: Norm) -> None:
        """The stream becomes `norm` of itself (post-norm)."""
        self._x, self._added = self.normed(norm), None

    def add(self, delta: torch.Tensor) -> None:
        assert self._added is None, "two sublayers in a row without a norm between them"
        self._added = delta

    @property
    def value(self) -> torch.Tensor:
        return self._x if self._added is None else self._x + self._added
