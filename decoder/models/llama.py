"""The decoder of Llama (Touvron et al. 2023) and Qwen2, which attends to its own tokens alone."""

import torch
from torch import nn

from antiphon.decoder.models.interface import CachedAttention, DecoderModel, DecoderStep
from antiphon.families.halves import HeadTensors, LlamaHalf
from antiphon.layers.activations import Activation
from antiphon.layers.embeddings import OutputHead
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, RMSNorm
from antiphon.layers.quantization.kv_scales import CachedProjections, ProjectionInput
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import RotaryTable, Rotation


class SelfAttention(CachedAttention):
    def __init__(self, half: LlamaHalf, layer: int) -> None:
        super().__init__()
        self.layer = layer
        queries, keys = half.num_heads * half.head_dim, half.num_kv_heads * half.head_dim
        parts = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        self.qkv = StackedLinear(half.hidden_size, parts, bias=half.qkv_bias)
        self.o_proj = Linear(queries, half.hidden_size, bias=half.output_bias)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.qkv, self.qkv, self.o_proj, rotated=True)

    def forward(self, x: LinearInput, step: DecoderStep, rotation: Rotation) -> torch.Tensor:
        """[tokens, hidden] -> what `o_proj` reads [tokens, heads * head_dim]; writes self KV."""
        destination = step.pool.destination(self.layer, step.slot_mapping)
        q = self.qkv.queries(x, destination, rotation)
        heads = step.causal.run(q, *step.pool.pages(self.layer))
        return heads.flatten(1)


class FeedForward(nn.Module):
    """`act(gate(x)) * up(x)` (SwiGLU, Shazeer 2020); then `down_proj`, which the block calls."""

    def __init__(self, half: LlamaHalf) -> None:
        super().__init__()
        parts = dict.fromkeys(("gate_proj", "up_proj"), half.ffn_size)
        self.gate_up = StackedLinear(half.hidden_size, parts, bias=half.ffn_bias)
        self.activation = Activation(half.activation)
        self.down_proj = Linear(half.ffn_size, half.hidden_size, bias=half.ffn_bias)

    def forward(self, x: LinearInput) -> torch.Tensor | QuantizedRows:
        """[tokens, hidden] -> what `down_proj` reads [tokens, ffn]."""
        gate, up = self.gate_up.split(x)
        activated: torch.Tensor | QuantizedRows = self.activation(gate, up)
        return activated


class DecoderLayer(nn.Module):
    def __init__(self, half: LlamaHalf, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(half.hidden_size, half.norm_eps)
        self.attention = SelfAttention(half, layer)
        self.post_attention_layernorm = RMSNorm(half.hidden_size, half.norm_eps)
        self.feed_forward = FeedForward(half)

    def forward(self, residual: Residual, step: DecoderStep, rotation: Rotation) -> Residual:
        x, residual = self.input_layernorm(residual)
        x = self.attention(x, step, rotation)
        residual = self.attention.o_proj.add_to(residual, x)

        x, residual = self.post_attention_layernorm(residual)
        x = self.feed_forward(x)
        return self.feed_forward.down_proj.add_to(residual, x)


class LlamaDecoder(DecoderModel):
    def __init__(self, half: LlamaHalf, head: HeadTensors) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(half.vocab_size, half.hidden_size)
        self.rotary = RotaryTable(half.rotary, half.max_positions)
        self.layers = nn.ModuleList(DecoderLayer(half, layer) for layer in range(half.num_layers))
        self.norm = RMSNorm(half.hidden_size, half.norm_eps)
        tied = self.embed_tokens if head.tied else None
        self.lm_head = OutputHead(half.hidden_size, half.vocab_size, tied)

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embed_tokens(token_ids)
        return embedded

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: DecoderStep) -> torch.Tensor:
        rotation, residual = self.rotary(positions), Residual(x)
        for layer in self.layers:
            residual = layer(residual, step, rotation)
        return self.norm.of_sum(residual)

    def self_projections(self) -> list[tuple[CachedProjections, ProjectionInput]]:
        layers = [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
        return [
            (
                layer.attention.projections(),
                ProjectionInput.of_norm(layer.input_layernorm.weight, None),
            )
            for layer in layers
        ]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.lm_head(hidden)
        return logits
