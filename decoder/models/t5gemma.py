"""The decoder of T5Gemma (Zhang et al. 2025): Gemma 2's layers, with cross attention
between self-attention and the feed-forward layer."""

import torch

from antiphon.decoder.models.interface import (
    CachedCrossAttention,
    DecoderStep,
)
from antiphon.decoder.models.rotary import RotaryDecoder, RotaryLayer, RotarySelfAttention
from antiphon.families.halves import HeadTensors
from antiphon.families.t5gemma_half import T5GemmaHalf
from antiphon.layers.gemma import FeedForward, add_normed, make_norm, make_projections, scaled
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, Norm
from antiphon.layers.quantization.kv_scales import CachedProjections
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import Rotation
from antiphon.layers.shard import Part, Shard


class SelfAttention(RotarySelfAttention):
    def __init__(self, half: T5GemmaHalf, layer: int, shard: Shard) -> None:
        super().__init__(layer, half.rotary)
        self.qkv, self.o_proj = make_projections(half, shard)


class CrossAttention(CachedCrossAttention):
    def __init__(self, half: T5GemmaHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        size, self.layer, heads = half.hidden_size, layer, shard.heads_of(half)
        self.head_dim, bias, inner = half.head_dim, half.projection_bias, heads.query_features
        self.q_proj = Linear(size, inner, bias)
        parts = dict.fromkeys(("k_proj", "v_proj"), heads.kv_features)
        self.kv = StackedLinear(half.cross_size, parts, bias)
        self.o_proj = Linear(inner, size, bias, summed_over=shard.group)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.q_proj, self.kv, self.o_proj)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> what `o_proj` reads [tokens, heads * head_dim]."""
        return self.attend(self.q_proj(x), step)


class DecoderLayer(RotaryLayer):
    def __init__(self, half: T5GemmaHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        self.pre_self_attn_layernorm = make_norm(half)
        self.attention = SelfAttention(half, layer, shard)
        self.post_self_attn_layernorm = make_norm(half)
        self.pre_cross_attn_layernorm = make_norm(half)
        self.cross_attention = CrossAttention(half, layer, shard)
        self.post_cross_attn_layernorm = make_norm(half)
        self.pre_feedforward_layernorm = make_norm(half)
        self.feed_forward = FeedForward(half, shard)
        self.post_feedforward_layernorm = make_norm(half)

    @property
    def first_norm(self) -> Norm:
        return self.pre_self_attn_layernorm

    def forward(self, residual: Residual, step: DecoderStep, rotation: Rotation) -> Residual:
        x, residual = self.pre_self_attn_layernorm(residual)
        output = self.attention.o_proj(self.attention(x, step, rotation))
        residual = add_normed(self.post_self_attn_layernorm, residual, output)

        x, residual = self.pre_cross_attn_layernorm(residual)
        output = self.cross_attention.o_proj(self.cross_attention(x, step))
        residual = add_normed(self.post_cross_attn_layernorm, residual, output)

        x, residual = self.pre_feedforward_layernorm(residual)
        output = self.feed_forward(x)
        return add_normed(self.post_feedforward_layernorm, residual, output)


class T5GemmaDecoder(RotaryDecoder):
    def __init__(self, half: T5GemmaHalf, head: HeadTensors, part: Part) -> None:
        super().__init__(
            half,
            head,
            part,
            make_layer=lambda layer: DecoderLayer(half, layer, part.shard),
            make_norm=lambda: make_norm(half),
        )
        self.size, self.logits_cap = half.hidden_size, half.logits_cap

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return scaled(super().embed(token_ids, positions), self.size)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(hidden)
        if self.logits_cap is None:
            return logits
        return torch.tanh(logits.float() / self.logits_cap) * self.logits_cap
