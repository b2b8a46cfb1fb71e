"""What both halves of T5 share: the feed-forward layer."""

import torch
from torch import nn

from antiphon.families.halves import T5Half
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, RMSNorm
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.shard import Shard


class T5FeedForward(nn.Module):
    """`act(wi(x))`, or gated since v1.1: `act(wi_0(x)) * wi_1(x)` (Shazeer 2020); then `wo`.

    The block calls `layer_norm` before and `wo` behind, which adds to the residual stream.
    """

    def __init__(self, half: T5Half, shard: Shard) -> None:
        super().__init__()
        self.gated = half.gated
        self.activation = Activation(half.activation)
        parts = ("wi_0", "wi_1") if half.gated else ("wi",)
        inner = shard.features(half.ffn_size)
        self.wi = StackedLinear(half.hidden_size, dict.fromkeys(parts, inner), bias=False)
        self.wo = Linear(inner, half.hidden_size, bias=False, summed_over=shard.group)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    def forward(self, x: LinearInput) -> torch.Tensor | QuantizedRows:
        """[tokens, hidden] -> what `wo` reads [tokens, ffn]."""
        if not self.gated:
            return self.wi.activated(x, self.activation)
        value, gate = self.wi.split(x)
        activated: torch.Tensor | QuantizedRows = self.activation(value, gate)
        return activated
