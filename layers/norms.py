"""Normalisation, and the residual stream that it stands in."""

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.kernels.formats import SMALL_BATCH
from antiphon.layers.eight_bit import Quantised
from antiphon.layers.linear import Added, Features, Linear, Normed, Parts


class LayerNorm(nn.LayerNorm):
    """With `after`, which takes in a residual: on a GPU in the same pass over memory."""

    quantises = False  # its output goes into a quantised linear layer
    deferred = False  # of few rows, it is left to the linear layer that reads it

    def after(self, x: torch.Tensor, delta: Added) -> tuple[torch.Tensor, torch.Tensor | Quantised]:
        """`x + delta` and its norm, both [tokens, hidden]."""
        return _after(self, x, delta, self.bias)


class RMSNorm(nn.Module):
    """Root-mean-square norm without mean or bias (Zhang and Sennrich 2019), as T5 has it; statistics in float32."""

    quantises = False
    deferred = False

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(self.weight.dtype)

    def after(self, x: torch.Tensor, delta: Added) -> tuple[torch.Tensor, torch.Tensor | Quantised]:
        """As `LayerNorm.after`."""
        return _after(self, x, delta, None)


Norm = LayerNorm | RMSNorm


def _after(
    norm: Norm, x: torch.Tensor, delta: Added, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | Quantised]:
    if x.device.type == "cuda":
        from antiphon.kernels.norms import (  # Triton is there where CUDA is
            add_norm,
            add_norm_quantised,
        )

        parts, parts_bias = as_parts(delta)
        if norm.quantises:
            total, values, scales = add_norm_quantised(
                x, parts, parts_bias, norm.weight, bias, norm.eps
            )
            return total, Quantised(values, scales)
        return add_norm(x, parts, parts_bias, norm.weight, bias, norm.eps)
    total = _sum(x, delta)
    return total, norm(total)


def as_parts(delta: Added) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """[parts, tokens, hidden] and their bias, as the kernel takes them."""
    if isinstance(delta, Parts):
        return delta.sums, delta.bias
    return None if delta is None else delta[None], None


def _sum(x: torch.Tensor, delta: Added) -> torch.Tensor:
    if delta is None:
        return x
    return x + (delta.total(x.dtype) if isinstance(delta, Parts) else delta)


class ResidualStream:
    """What the sublayers of a transformer read from and add to. What one adds is summed when the next norm reads it, so that
    sum and norm pass over memory once. Few rows are summed by the linear layer itself."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x  # [tokens, hidden]
        self._added: Added = None

    def normed(self, norm: Norm) -> Features:
        """`norm` of the stream, which stays as it is (pre-norm), for a linear layer."""
        if norm.deferred and self._added is None and len(self._x) <= SMALL_BATCH:
            return Normed(self._x, norm)
        self._x, found = norm.after(self._x, self._added)
        self._added = None
        return found

    def final(self, norm: Norm) -> torch.Tensor:
        """`norm` of the stream, where no linear layer follows."""
        self._x, found = norm.after(self._x, self._added)
        self._added = None
        assert isinstance(found, torch.Tensor), "only what a linear layer reads may be quantised"
        return found

    def renew(self, norm: Norm) -> None:
        """The stream becomes `norm` of itself (post-norm)."""
        self._x = self.final(norm)

    def add(self, linear: Linear, x: Features) -> None:
        """The stream grows by `linear` of `x`."""
        assert self._added is None, "two sublayers in a row without a norm between them"
        if linear.fuses(x):
            self._x = linear.plus(x, self._x)
        elif linear.divides(x):
            assert isinstance(x, torch.Tensor)
            self._added = linear.in_parts(x)
        else:
            self._added = linear(x)

    @property
    def value(self) -> torch.Tensor:
        return _sum(self._x, self._added)
