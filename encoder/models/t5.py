"""The encoder of T5 (Raffel et al. 2020).

RMSNorm before every sublayer, no biases, a relative position bias, and scores without a scale.
"""

from collections.abc import Mapping

import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import TextEncoder
from antiphon.encoder.models.length_sets import FULL
from antiphon.families.halves import T5Half
from antiphon.layers.embeddings import WordEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, RMSNorm
from antiphon.layers.positions import RelativeBias
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Part, Shard
from antiphon.layers.t5 import T5FeedForward


class SelfAttention(nn.Module):
    def __init__(self, half: T5Half, shard: Shard) -> None:
        super().__init__()
        heads = shard.heads_of(half)
        self.heads = (heads.queries.count, half.head_dim)
        inner = heads.query_features
        self.qkv = StackedLinear(half.hidden_size, dict.fromkeys("qkv", inner), bias=False)
        self.o = Linear(inner, half.hidden_size, bias=False, summed_over=shard.group)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    def forward(
        self, x: LinearInput, attention: FullAttention[M], metadata: M, bias: RelativeBias
    ) -> torch.Tensor:
        """[tokens, hidden] -> what `o` reads [tokens, heads * head_dim]."""
        q, k, v = (part.unflatten(-1, self.heads) for part in self.qkv.split(x))
        return attention.run(q, k, v, metadata, bias).flatten(1)


class EncoderLayer(nn.Module):
    lengths = FULL  # name of the set of lengths that it attends within

    def __init__(self, half: T5Half, shard: Shard) -> None:
        super().__init__()
        self.attention = SelfAttention(half, shard)
        self.feed_forward = T5FeedForward(half, shard)

    def forward(
        self,
        residual: Residual,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        bias: RelativeBias,
    ) -> Residual:
        x, residual = self.attention.layer_norm(residual)
        x = self.attention(x, attention, plans[self.lengths], bias)
        residual = self.attention.o.add_to(residual, x)

        x, residual = self.feed_forward.layer_norm(residual)
        x = self.feed_forward(x)
        return self.feed_forward.wo.add_to(residual, x)


class T5Encoder(TextEncoder):
    def __init__(self, half: T5Half, part: Part) -> None:
        super().__init__()
        size, shard = half.hidden_size, part.shard
        self.embed_tokens = WordEmbedding(half.vocab_size, size, shard) if part.is_first else None
        heads = shard.heads_of(half).queries
        self.bias = RelativeBias(
            heads, half.bias_buckets, half.bias_max_distance, bidirectional=True
        )
        self.layers = nn.ModuleList(EncoderLayer(half, shard) for _ in part.layers)
        self.final_layer_norm = RMSNorm(size, half.norm_eps) if part.is_last else None

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Positions are unused: the bias is relative."""
        assert self.embed_tokens is not None
        embedded: torch.Tensor = self.embed_tokens(token_ids)
        return embedded

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: object = None,
    ) -> torch.Tensor:
        return self.run_layers(x, attention, plans, self.final_layer_norm, self.bias)
