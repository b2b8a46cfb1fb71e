"""The residual stream of a transformer as a value that blocks pass on.

A sublayer reads a norm of the stream and adds its output to it. The sum is left to the
next norm, which adds and norms in one pass over memory: until then the output is
`pending`.
"""

from dataclasses import dataclass

import msgspec
import torch

from antiphon.kernels.shared_rows import SharedRows
from antiphon.runtime.groups import Group


@dataclass(frozen=True)
class SplitK:
    """A linear layer's output whose sum over the inputs is split; the bias is not added yet."""

    sums: torch.Tensor  # [splits, tokens, features] float32
    bias: torch.Tensor | None  # [features]

    def total(self, dtype: torch.dtype) -> torch.Tensor:
        """The output [tokens, features]."""
        total = self.sums.sum(0)
        return (total if self.bias is None else total + self.bias).to(dtype)


@dataclass(frozen=True)
class RankTerm:
    """This rank's term [tokens, hidden] of a linear layer's output. The norm that reads the stream
    next sums the terms of the ranks of `group`, through the memory `shared`."""

    term: torch.Tensor
    group: Group
    shared: SharedRows

    def total(self, dtype: torch.dtype) -> torch.Tensor:
        """The output [tokens, hidden]."""
        return self.group.all_reduce(self.term).to(dtype)


PendingResidual = torch.Tensor | SplitK | RankTerm  # [tokens, hidden]


class Residual(msgspec.Struct, frozen=True):
    """The stream is `x` plus `pending`. Never changed in place: each sublayer returns a new one."""

    x: torch.Tensor  # [tokens, hidden]
    pending: PendingResidual | None = None

    def plus(self, output: PendingResidual) -> "Residual":
        """The stream with a sublayer's `output` pending."""
        assert self.pending is None, "two sublayers in a row without a norm between them"
        return Residual(self.x, output)

    def total(self) -> torch.Tensor:
        """The stream [tokens, hidden], in plain torch."""
        if self.pending is None:
            return self.x
        pending = self.pending
        return self.x + (
            pending if isinstance(pending, torch.Tensor) else pending.total(self.x.dtype)
        )
