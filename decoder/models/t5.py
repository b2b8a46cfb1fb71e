"""The decoder of T5 (Raffel et al. 2020).

As its encoder, with causal self-attention, and cross-attention without position bias.
"""

import torch
from torch import nn

from antiphon.decoder.models.interface import (
    CachedAttention,
    CachedCrossAttention,
    DecoderModel,
    DecoderStep,
)
from antiphon.families.halves import HeadTensors, T5Half
from antiphon.layers.embeddings import OutputHead, WordEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, RMSNorm
from antiphon.layers.positions import RelativeBias
from antiphon.layers.quantization.kv_scales import CachedProjections, ProjectionInput
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Part, Shard
from antiphon.layers.t5 import T5FeedForward


class SelfAttention(CachedAttention):
    def __init__(self, half: T5Half, layer: int, shard: Shard) -> None:
        super().__init__()
        self.layer, inner = layer, shard.heads_of(half).query_features
        self.qkv = StackedLinear(half.hidden_size, dict.fromkeys("qkv", inner), bias=False)
        self.o = Linear(inner, half.hidden_size, bias=False, summed_over=shard.group)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.qkv, self.qkv, self.o)

    def forward(self, x: LinearInput, step: DecoderStep, bias: RelativeBias) -> torch.Tensor:
        """[tokens, hidden] -> `o`'s [tokens, heads * head_dim]; writes self KV."""
        q = self.qkv.queries(x, step.pool.destination(self.layer, step.slot_mapping))
        heads = step.causal.run(q, *step.pool.pages(self.layer), bias)
        return heads.flatten(1)


class CrossAttention(CachedCrossAttention):
    def __init__(self, half: T5Half, layer: int, shard: Shard) -> None:
        super().__init__()
        self.layer, heads = layer, shard.heads_of(half)
        self.head_dim, inner = half.head_dim, heads.query_features
        self.q = Linear(half.hidden_size, inner, bias=False)
        self.kv = StackedLinear(half.hidden_size, dict.fromkeys("kv", inner), bias=False)
        self.o = Linear(inner, half.hidden_size, bias=False, summed_over=shard.group)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.q, self.kv, self.o)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> what `o` reads [tokens, heads * head_dim]."""
        return self.attend(self.q(x), step)


class DecoderLayer(nn.Module):
    def __init__(self, half: T5Half, layer: int, shard: Shard) -> None:
        super().__init__()
        self.attention = SelfAttention(half, layer, shard)
        self.cross_attention = CrossAttention(half, layer, shard)
        self.feed_forward = T5FeedForward(half, shard)

    def forward(self, residual: Residual, step: DecoderStep, bias: RelativeBias) -> Residual:
        x, residual = self.attention.layer_norm(residual)
        x = self.attention(x, step, bias)
        residual = self.attention.o.add_to(residual, x)

        x, residual = self.cross_attention.layer_norm(residual)
        x = self.cross_attention(x, step)
        residual = self.cross_attention.o.add_to(residual, x)

        x, residual = self.feed_forward.layer_norm(residual)
        x = self.feed_forward(x)
        return self.feed_forward.wo.add_to(residual, x)


class T5Decoder(DecoderModel):
    def __init__(self, half: T5Half, head: HeadTensors, part: Part) -> None:
        super().__init__()
        size, shard = half.hidden_size, part.shard
        self.embed_tokens = WordEmbedding(half.vocab_size, size, shard) if part.is_first else None
        heads = shard.heads_of(half).queries
        self.bias = RelativeBias(
            heads, half.bias_buckets, half.bias_max_distance, bidirectional=False
        )
        self.layers = nn.ModuleList(
            DecoderLayer(half, layer, shard) for layer in range(len(part.layers))
        )
        self.final_layer_norm: RMSNorm | None = None
        self.lm_head: OutputHead | None = None
        if part.is_last:
            self.final_layer_norm = RMSNorm(size, half.norm_eps)
            tied = self.embed_tokens if head.tied else None
            self.lm_head = OutputHead(size, half.vocab_size, shard, tied)
        self.logits_scale = half.logits_scale

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert self.embed_tokens is not None
        embedded: torch.Tensor = self.embed_tokens(token_ids)
        return embedded

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: DecoderStep) -> torch.Tensor:
        residual = Residual(x)
        for layer in self.layers:
            residual = layer(residual, step, self.bias)
        norm = self.final_layer_norm
        return residual.total() if norm is None else norm.of_sum(residual)

    def self_projections(self) -> list[tuple[CachedProjections, ProjectionInput]]:
        attentions = [layer.attention for layer in self.layers if isinstance(layer, DecoderLayer)]
        return [
            (attention.projections(), ProjectionInput.of_norm(attention.layer_norm.weight, None))
            for attention in attentions
        ]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self.lm_head is not None
        logits: torch.Tensor = self.lm_head(hidden * self.logits_scale)
        return logits
