"""The decoder of Llama (Touvron et al. 2023), Qwen2 and Qwen3: no cross-attention."""

import torch
from torch import nn

from antiphon.decoder.models.interface import DecoderStep
from antiphon.decoder.models.rotary import RotaryDecoder, RotaryLayer, RotarySelfAttention
from antiphon.families.halves import HeadTensors, LlamaHalf
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, Norm, RMSNorm
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import HeadNorms, Rotation
from antiphon.layers.shard import Part, Shard


class SelfAttention(RotarySelfAttention):
    def __init__(self, half: LlamaHalf, layer: int, shard: Shard) -> None:
        super().__init__(layer, half.rotary)
        size, heads = half.hidden_size, shard.heads_of(half)
        queries, keys = heads.query_features, heads.kv_features
        parts = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        self.qkv = StackedLinear(size, parts, bias=half.qkv_bias)
        self.o_proj = Linear(queries, size, bias=half.output_bias, summed_over=shard.group)
        if half.head_norms:
            self.norms = HeadNorms(half.head_dim, half.norm_eps)


class FeedForward(nn.Module):
    """`act(gate(x)) * up(x)` (SwiGLU, Shazeer 2020). The block calls `down_proj`."""

    def __init__(self, half: LlamaHalf, shard: Shard, down: type[Linear] = Linear) -> None:
        super().__init__()
        size, inner = half.hidden_size, shard.features(half.ffn_size)
        parts = dict.fromkeys(("gate_proj", "up_proj"), inner)
        self.gate_up = StackedLinear(size, parts, bias=half.ffn_bias)
        self.activation = Activation(half.activation)
        self.down_proj = down(inner, size, bias=half.ffn_bias, summed_over=shard.group)

    def forward(self, x: LinearInput) -> torch.Tensor | QuantizedRows:
        """[tokens, hidden] -> what `down_proj` reads [tokens, ffn]."""
        gate, up = self.gate_up.split(x)
        activated: torch.Tensor | QuantizedRows = self.activation(gate, up)
        return activated


class DecoderLayer(RotaryLayer):
    def __init__(self, half: LlamaHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(half.hidden_size, half.norm_eps)
        self.attention = SelfAttention(half, layer, shard)
        self.post_attention_layernorm = RMSNorm(half.hidden_size, half.norm_eps)
        self.feed_forward = FeedForward(half, shard)

    @property
    def first_norm(self) -> Norm:
        return self.input_layernorm

    def forward(self, residual: Residual, step: DecoderStep, rotation: Rotation) -> Residual:
        x, residual = self.input_layernorm(residual)
        x = self.attention(x, step, rotation)
        residual = self.attention.o_proj.add_to(residual, x)

        x, residual = self.post_attention_layernorm(residual)
        x = self.feed_forward(x)
        return self.feed_forward.down_proj.add_to(residual, x)


class LlamaDecoder(RotaryDecoder):
    def __init__(self, half: LlamaHalf, head: HeadTensors, part: Part) -> None:
        super().__init__(
            half,
            head,
            part,
            make_layer=lambda layer: DecoderLayer(half, layer, part.shard),
            make_norm=lambda: RMSNorm(half.hidden_size, half.norm_eps),
        )
