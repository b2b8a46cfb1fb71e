"""The encoder of T5 (Raffel et al. 2020): RMSNorm before each sublayer, no biases, relative position bias, unscaled scores."""

import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import TextEncoder
from antiphon.families.halves import T5Half
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import ResidualStream, RMSNorm
from antiphon.layers.positions import RelativeBias
from antiphon.layers.t5 import T5FeedForward


class SelfAttention(nn.Module):
    def __init__(self, half: T5Half) -> None:
        super().__init__()
        self.heads = (half.num_heads, half.head_dim)
        inner = half.num_heads * half.head_dim
        self.qkv = StackedLinear(half.hidden_size, dict.fromkeys("qkv", inner), bias=False)
        self.o = Linear(inner, half.hidden_size, bias=False)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    def forward(
        self, stream: ResidualStream, attention: FullAttention[M], metadata: M, bias: RelativeBias
    ) -> None:
        q, k, v = (
            part.unflatten(-1, self.heads)
            for part in self.qkv.split(stream.normed(self.layer_norm))
        )
        stream.add(self.o, attention.run(q, k, v, metadata, bias).flatten(1))


class EncoderLayer(nn.Module):
    def __init__(self, half: T5Half) -> None:
        super().__init__()
        self.attention = SelfAttention(half)
        self.feed_forward = T5FeedForward(half)

    def forward(
        self, stream: ResidualStream, attention: FullAttention[M], metadata: M, bias: RelativeBias
    ) -> None:
        self.attention(stream, attention, metadata, bias)
        self.feed_forward(stream)


class T5Encoder(TextEncoder):
    def __init__(self, half: T5Half) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(half.vocab_size, half.hidden_size)
        self.bias = RelativeBias(
            half.num_heads, half.bias_buckets, half.bias_max_distance, bidirectional=True
        )
        self.layers = nn.ModuleList(EncoderLayer(half) for _ in range(half.num_layers))
        self.final_layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Positions are unused: the bias is relative."""
        embedded: torch.Tensor = self.embed_tokens(token_ids)
        return embedded

    def forward(self, x: torch.Tensor, attention: FullAttention[M], metadata: M) -> torch.Tensor:
        stream = ResidualStream(x)
        for layer in self.layers:
            layer(stream, attention, metadata, self.bias)
        return stream.final(self.final_layer_norm)
