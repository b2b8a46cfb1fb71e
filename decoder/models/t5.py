"""The decoder of T5 (Raffel et al. 2020): as its encoder, with causal self-attention and unbiased cross-attention."""

import torch
from torch import nn

from antiphon.decoder.models.interface import (
    CachedAttention,
    CrossWriter,
    DecoderModel,
    DecoderStep,
    RowSource,
)
from antiphon.families.halves import HeadTensors, T5Half
from antiphon.kv.pool import KVPool
from antiphon.layers.eight_bit import Quantised
from antiphon.layers.embeddings import OutputHead
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import ResidualStream, RMSNorm
from antiphon.layers.positions import RelativeBias
from antiphon.layers.t5 import T5FeedForward


class SelfAttention(CachedAttention):
    def __init__(self, half: T5Half, layer: int) -> None:
        super().__init__()
        self.layer, inner = layer, half.num_heads * half.head_dim
        self.qkv = StackedLinear(half.hidden_size, dict.fromkeys("qkv", inner), bias=False)
        self.o = Linear(inner, half.hidden_size, bias=False)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    @property
    def projections(self) -> tuple[Linear, StackedLinear, Linear]:
        return self.qkv, self.qkv, self.o

    def forward(self, stream: ResidualStream, step: DecoderStep, bias: RelativeBias) -> None:
        q = step.pool.project(
            self.layer, step.slot_mapping, self.qkv, stream.normed(self.layer_norm)
        )
        found = step.causal.run(q, *step.pool.pages(self.layer), bias)
        stream.add(self.o, found.flatten(1))


class CrossAttention(CrossWriter):
    def __init__(self, half: T5Half, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, (half.num_heads, half.head_dim)
        inner = half.num_heads * half.head_dim
        self.q = Linear(half.hidden_size, inner, bias=False)
        self.kv = StackedLinear(half.hidden_size, dict.fromkeys("kv", inner), bias=False)
        self.o = Linear(inner, half.hidden_size, bias=False)
        self.layer_norm = RMSNorm(half.hidden_size, half.norm_eps)

    @property
    def projections(self) -> tuple[Linear, StackedLinear, Linear]:
        return self.q, self.kv, self.o

    def write(
        self, hidden: torch.Tensor | Quantised, slot_mapping: torch.Tensor, pool: KVPool
    ) -> None:
        k, v = (part.unflatten(-1, self.heads) for part in self.kv.split(hidden))
        pool.write(self.layer, slot_mapping, k, v)

    def forward(self, stream: ResidualStream, step: DecoderStep) -> None:
        q = self.q(stream.normed(self.layer_norm)).unflatten(-1, self.heads)
        found = step.cross.run(q, *step.pool.pages(self.layer))
        stream.add(self.o, found.flatten(1))


class DecoderLayer(nn.Module):
    def __init__(self, half: T5Half, layer: int) -> None:
        super().__init__()
        self.attention = SelfAttention(half, layer)
        self.cross_attention = CrossAttention(half, layer)
        self.feed_forward = T5FeedForward(half)

    def forward(self, stream: ResidualStream, step: DecoderStep, bias: RelativeBias) -> None:
        self.attention(stream, step, bias)
        self.cross_attention(stream, step)
        self.feed_forward(stream)


class T5Decoder(DecoderModel):
    def __init__(self, half: T5Half, head: HeadTensors) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(half.vocab_size, half.hidden_size)
        self.bias = RelativeBias(
            half.num_heads, half.bias_buckets, half.bias_max_distance, bidirectional=False
        )
        self.layers = nn.ModuleList(DecoderLayer(half, layer) for layer in range(half.num_layers))
        self.final_layer_norm = RMSNorm(half.hidden_size, half.norm_eps)
        self.lm_head = OutputHead(
            half.hidden_size, half.vocab_size, self.embed_tokens if head.tied else None
        )
        self.logits_scale = half.logits_scale

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, step: DecoderStep
    ) -> torch.Tensor:
        stream = ResidualStream(self.embed_tokens(token_ids))
        for layer in self.layers:
            layer(stream, step, self.bias)
        return stream.final(self.final_layer_norm)

    def self_attention_inputs(self) -> list[RowSource]:
        return [
            layer.attention.layer_norm for layer in self.layers if isinstance(layer, DecoderLayer)
        ]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lm_head(hidden * self.logits_scale)
        return out
