"""What both halves of T5Gemma share: Gemma 2's norms, projections around self-attention and
feed-forward layer (Gemma Team 2024)."""

import torch
from torch import nn

from antiphon.families.t5gemma_half import T5GemmaHalf
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, RMSNorm
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.reading import Read
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Shard, whole


class OffsetNorm(RMSNorm):
    """An RMS norm whose gain is stored less 1. The sum is rounded to the model's dtype once."""

    def load(self, path: str, read: Read) -> None:
        """Fills the gain at `path`."""
        stored = read(f"{path}.weight", whole(len(self.weight)))
        self.weight.copy_(stored.float() + 1.0)


def scaled(embedded: torch.Tensor, size: int) -> torch.Tensor:
    """Embeddings [tokens, hidden] times the root of `size`, which is rounded to their dtype first,
    as transformers does."""
    return embedded * float(torch.tensor(size**0.5, dtype=embedded.dtype))


def add_normed(norm: OffsetNorm, residual: Residual, output: torch.Tensor) -> Residual:
    """The stream plus the norm of a sublayer's `output` [tokens, hidden]."""
    return residual.plus(norm.of_sum(Residual(output)))


def make_norm(half: T5GemmaHalf) -> OffsetNorm:
    return OffsetNorm(half.hidden_size, half.norm_eps)


def make_projections(half: T5GemmaHalf, shard: Shard) -> tuple[StackedLinear, Linear]:
    """Of queries, keys and values; and behind self-attention."""
    heads, size, bias = shard.heads_of(half), half.hidden_size, half.projection_bias
    keys = heads.kv_features
    parts = {"q_proj": heads.query_features, "k_proj": keys, "v_proj": keys}
    output = Linear(heads.query_features, size, bias, summed_over=shard.group)
    return StackedLinear(size, parts, bias), output


class FeedForward(nn.Module):
    """`act(gate(x)) * up(x)`; then `down_proj`."""

    def __init__(self, half: T5GemmaHalf, shard: Shard) -> None:
        super().__init__()
        size, inner = half.hidden_size, shard.features(half.ffn_size)
        parts = dict.fromkeys(("gate_proj", "up_proj"), inner)
        self.gate_up = StackedLinear(size, parts, bias=False)
        self.activation = Activation(half.activation)
        self.down_proj = Linear(inner, size, bias=False, summed_over=shard.group)

    def forward(self, x: LinearInput) -> torch.Tensor:
        """[tokens, hidden] -> the same"""
        gate, up = self.gate_up.split(x)
        activated: torch.Tensor | QuantizedRows = self.activation(gate, up)
        output: torch.Tensor = self.down_proj(activated)
        return output
