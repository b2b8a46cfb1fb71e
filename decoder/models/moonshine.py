"""The decoder of Moonshine (Jeffries et al. 2024): rotary positions, cross attention
without any, and a gated feed-forward layer."""

import torch

from antiphon.decoder.models.interface import (
    CachedCrossAttention,
    DecoderStep,
)
from antiphon.decoder.models.rotary import RotaryDecoder, RotaryLayer, RotarySelfAttention
from antiphon.families.halves import HeadTensors
from antiphon.families.moonshine_half import MoonshineHalf
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, Norm
from antiphon.layers.quantization.kv_scales import CachedProjections
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import Rotation
from antiphon.layers.shard import Part, Shard
from antiphon.layers.stored_linear import InterleavedLinear, PackedLinear
from antiphon.layers.unbiased_norm import UnbiasedLayerNorm


class SelfAttention(RotarySelfAttention):
    def __init__(self, half: MoonshineHalf, layer: int, shard: Shard) -> None:
        super().__init__(layer, half.rotary)
        size, heads = half.hidden_size, shard.heads_of(half)
        inner = heads.query_features
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), inner)
        self.qkv = InterleavedLinear(size, parts, half.qkv_bias, heads, half.rotary.size)
        self.o_proj = Linear(inner, size, bias=False, summed_over=shard.group)


class CrossAttention(CachedCrossAttention):
    def __init__(self, half: MoonshineHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        size, self.layer, heads = half.hidden_size, layer, shard.heads_of(half)
        self.head_dim, inner = half.head_dim, heads.query_features
        self.q_proj = Linear(size, inner, half.qkv_bias)
        self.kv = StackedLinear(size, dict.fromkeys(("k_proj", "v_proj"), inner), half.qkv_bias)
        self.o_proj = Linear(inner, size, bias=False, summed_over=shard.group)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.q_proj, self.kv, self.o_proj)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> what `o_proj` reads [tokens, heads * head_dim]."""
        return self.attend(self.q_proj(x), step)


class DecoderLayer(RotaryLayer):
    def __init__(self, half: MoonshineHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        size, inner = half.hidden_size, shard.features(half.ffn_size)
        self.input_layernorm = UnbiasedLayerNorm(size)
        self.attention = SelfAttention(half, layer, shard)
        self.post_attention_layernorm = UnbiasedLayerNorm(size)
        self.cross_attention = CrossAttention(half, layer, shard)
        self.final_layernorm = UnbiasedLayerNorm(size)
        self.activation = Activation(half.activation)
        self.fc1 = PackedLinear(size, dict.fromkeys(("up", "gate"), inner), bias=True)
        self.fc2 = Linear(inner, size, summed_over=shard.group)

    @property
    def first_norm(self) -> Norm:
        return self.input_layernorm

    def forward(self, residual: Residual, step: DecoderStep, rotation: Rotation) -> Residual:
        x, residual = self.input_layernorm(residual)
        x = self.attention(x, step, rotation)
        residual = self.attention.o_proj.add_to(residual, x)

        x, residual = self.post_attention_layernorm(residual)
        x = self.cross_attention(x, step)
        residual = self.cross_attention.o_proj.add_to(residual, x)

        x, residual = self.final_layernorm(residual)
        up, gate = self.fc1.split(x)
        return self.fc2.add_to(residual, self.activation(gate, up))


class MoonshineDecoder(RotaryDecoder):
    def __init__(self, half: MoonshineHalf, head: HeadTensors, part: Part) -> None:
        super().__init__(
            half,
            head,
            part,
            make_layer=lambda layer: DecoderLayer(half, layer, part.shard),
            make_norm=lambda: UnbiasedLayerNorm(half.hidden_size),
        )
