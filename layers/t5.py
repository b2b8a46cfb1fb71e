"""What both halves of T5 share: the feed-forward layer."""

from torch import nn

from antiphon.families.halves import T5Half
from antiphon.layers.linear import Activation, Linear, StackedLinear
from antiphon.layers.norms import ResidualStream, RMSNorm


class T5FeedForward(nn.Module):
    """`wo(act(wi(x)))`, or gated since v1.1: `wo(act(wi_0(x)) * wi_1(x))` (Shazeer 2020)."""

    def __init__(self, half: T5Half) -> None:
        super().__init__()
        self.activation = Activation(half.activation)
        parts = ("wi_0", "wi_1") if half.gated else ("wi",)
        self.wi = StackedLinear(half.hidden_size, dict.fromkeys(parts, half.ffn_size), bias=False)
        self.wo = Linear(half.ffn_size, half.hidden_size, bias=False)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    def forward(self, stream: ResidualStream) -> None:
        x = stream.normed(self.layer_norm)
        gated = len(self.wi.parts) == 2
        stream.add(
            self.wo, self.activation(*self.wi.split(x)) if gated else self.wi(x, self.activation)
        )
