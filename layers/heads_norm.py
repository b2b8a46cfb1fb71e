"""A norm over all heads of queries, or of keys, together."""

import torch
from torch import nn

from antiphon.layers.shard import Span, Spans
from antiphon.runtime.groups import Group


class HeadsNorm(nn.Module):
    """An RMS norm over the features of all heads, of which each rank has some (InternViT-6B).

    `weight` [own features]. Statistics are float32, and their sum is over all ranks.
    """

    def __init__(self, features: Span, eps: float, group: Group) -> None:
        super().__init__()
        self.features, self.eps, self.group = features, eps, group
        self.weight = nn.Parameter(torch.ones(features.count), requires_grad=False)

    @property
    def shares(self) -> dict[str, Spans]:
        return {"weight": (self.features,)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, own features] -> the same."""
        wide = x.float()
        squares = self.group.all_reduce(wide.square().sum(-1, keepdim=True))
        normed = wide * torch.rsqrt(squares / self.features.total + self.eps)
        return self.weight * normed.to(x.dtype)
