"""Norms of the residual stream: what they are, and the ways to compute them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.kernels.formats import SMALL_BATCH
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import RankTerm, Residual, SplitK


class Norm(nn.Module):
    """A norm over the features of the stream; `method` says how it is computed.

    The method is chosen once, after loading (`prepare.py`). A fresh norm runs in plain torch.
    """

    weight: nn.Parameter  # [hidden]
    bias: nn.Parameter | None  # [hidden]
    eps: float

    def __init__(self) -> None:
        super().__init__()
        self.method: NormMethod = TorchNorm()

    def forward(self, residual: Residual) -> tuple["LinearInput", Residual]:
        """The norm of the stream, for the linear layers behind it; and the stream, summed."""
        return self.method.norm(self, residual)

    def of_sum(self, residual: Residual) -> torch.Tensor:
        """The norm of the stream as a tensor [tokens, hidden], where no linear layer follows."""
        return self.method.norm_in_full(self, residual)

    def renew(self, residual: Residual) -> Residual:
        """The stream that begins with the norm of this one (post-norm)."""
        return Residual(self.of_sum(residual))

    @abstractmethod
    def in_torch(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of `x` [tokens, hidden] in plain torch: the reference."""


class LayerNorm(Norm):
    """Layer norm with gain and bias (Ba et al. 2016)."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.eps = eps

    def in_torch(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight  # each look-up in a module takes half a microsecond
        return F.layer_norm(x, weight.shape, weight, self.bias, self.eps)


class RMSNorm(Norm):
    """Root-mean-square norm without mean or bias (Zhang and Sennrich 2019), as in T5.

    Statistics are float32; the normed row is rounded to the model's precision before the gain.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.bias = None
        self.eps = eps

    def in_torch(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(self.weight.dtype)


@dataclass(frozen=True)
class DeferredNorm:
    """`norm` of `x` [tokens, hidden], left to the linear layer that reads it."""

    x: torch.Tensor
    norm: Norm

    def __len__(self) -> int:
        return len(self.x)


LinearInput = torch.Tensor | QuantizedRows | DeferredNorm  # [tokens, features]


class NormMethod(ABC):
    """How norms are computed."""

    @abstractmethod
    def norm(self, norm: Norm, residual: Residual) -> tuple[LinearInput, Residual]:
        """As `Norm.forward`."""

    @abstractmethod
    def norm_in_full(self, norm: Norm, residual: Residual) -> torch.Tensor:
        """As `Norm.of_sum`."""


class TorchNorm(NormMethod):
    """The sum, then the norm, in torch's own operations."""

    def norm(self, norm: Norm, residual: Residual) -> tuple[LinearInput, Residual]:
        total = residual.total()
        return norm.in_torch(total), Residual(total)

    def norm_in_full(self, norm: Norm, residual: Residual) -> torch.Tensor:
        return norm.in_torch(residual.total())


class FusedNorm(NormMethod):
    """The sum and the norm in one Triton kernel, one pass over memory."""

    def norm(self, norm: Norm, residual: Residual) -> tuple[LinearInput, Residual]:
        x, total = self._add_norm(norm, residual)
        return x, Residual(total)

    def norm_in_full(self, norm: Norm, residual: Residual) -> torch.Tensor:
        return self._add_norm(norm, residual)[0]

    def _add_norm(self, norm: Norm, residual: Residual) -> tuple[torch.Tensor, torch.Tensor]:
        from antiphon.kernels.norms import add_norm  # Triton exists where CUDA does

        if isinstance(residual.pending, RankTerm):
            total, normed, _ = self.of_ranks(norm, residual.x, residual.pending)
            return normed, total
        sums, bias = pending_terms(residual.pending)
        total, normed = add_norm(residual.x, sums, bias, norm.weight, norm.bias, norm.eps)
        return normed, total

    def of_ranks(
        self, norm: Norm, x: torch.Tensor, pending: RankTerm, quantize: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The stream `x` plus the sum of the ranks' terms; its norm; and the scales of that, which
        is float8 then, with `quantize`."""
        from antiphon.kernels.summed_norm import summed_norm

        return summed_norm(
            x, pending.term, norm.weight, norm.bias, norm.eps, pending.shared, quantize=quantize
        )


class DeferringNorm(NormMethod):
    """Leaves the norm of a small batch to the linear layer behind it; otherwise as `larger`.

    A stream with a pending sum is not deferred: the sum must be stored, and the norm comes with it.
    """

    def __init__(self, larger: NormMethod) -> None:
        self.larger = larger

    def norm(self, norm: Norm, residual: Residual) -> tuple[LinearInput, Residual]:
        if residual.pending is None and len(residual.x) <= SMALL_BATCH:
            return DeferredNorm(residual.x, norm), residual
        return self.larger.norm(norm, residual)

    def norm_in_full(self, norm: Norm, residual: Residual) -> torch.Tensor:
        return self.larger.norm_in_full(norm, residual)


def pending_terms(
    pending: torch.Tensor | SplitK | None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """`pending` as the kernels take it: [terms, tokens, hidden] to sum, and a bias [hidden]."""
    if isinstance(pending, SplitK):
        return pending.sums, pending.bias
    return None if pending is None else pending[None], None
