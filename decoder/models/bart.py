"""The decoder of BART (Lewis et al. 2019) and its family: mBART, Pegasus, Marian, M2M-100/NLLB, and Whisper's."""

import torch
from torch import nn

from antiphon.decoder.models.interface import (
    CachedAttention,
    CrossWriter,
    DecoderModel,
    DecoderStep,
    RowSource,
)
from antiphon.families.halves import BartHalf, HeadTensors
from antiphon.kv.pool import KVPool
from antiphon.layers.eight_bit import Quantised
from antiphon.layers.embeddings import OutputHead, TokenEmbedding
from antiphon.layers.linear import Activation, Features, Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, ResidualStream


class SelfAttention(CachedAttention):
    def __init__(self, half: BartHalf, layer: int) -> None:
        super().__init__()
        size, self.layer = half.hidden_size, layer
        self.qkv = StackedLinear(
            size,
            dict.fromkeys(("q_proj", "k_proj", "v_proj"), size),
            True,
            () if half.key_bias else ("k_proj",),
        )
        self.out_proj = Linear(size, size)

    @property
    def projections(self) -> tuple[Linear, StackedLinear, Linear]:
        return self.qkv, self.qkv, self.out_proj

    def forward(self, x: Features, stream: ResidualStream, step: DecoderStep) -> None:
        q = step.pool.project(self.layer, step.slot_mapping, self.qkv, x)
        found = step.causal.run(q, *step.pool.pages(self.layer))
        stream.add(self.out_proj, found.flatten(1))


class CrossAttention(CrossWriter):
    def __init__(self, half: BartHalf, layer: int) -> None:
        super().__init__()
        size, self.layer = half.hidden_size, layer
        self.heads = (half.num_heads, half.head_dim)
        self.q_proj = Linear(size, size)
        self.kv = StackedLinear(
            size,
            dict.fromkeys(("k_proj", "v_proj"), size),
            True,
            () if half.key_bias else ("k_proj",),
        )
        self.out_proj = Linear(size, size)

    @property
    def projections(self) -> tuple[Linear, StackedLinear, Linear]:
        return self.q_proj, self.kv, self.out_proj

    def write(
        self, hidden: torch.Tensor | Quantised, slot_mapping: torch.Tensor, pool: KVPool
    ) -> None:
        k, v = (part.unflatten(-1, self.heads) for part in self.kv.split(hidden))
        pool.write(self.layer, slot_mapping, k, v)

    def forward(self, x: Features, stream: ResidualStream, step: DecoderStep) -> None:
        q = self.q_proj(x).unflatten(-1, self.heads)
        found = step.cross.run(q, *step.pool.pages(self.layer))
        stream.add(self.out_proj, found.flatten(1))


class DecoderLayer(nn.Module):
    def __init__(self, half: BartHalf, layer: int) -> None:
        super().__init__()
        self.pre_norm = half.pre_norm
        self.activation = Activation(half.activation)
        self.self_attn = SelfAttention(half, layer)
        self.self_attn_layer_norm = LayerNorm(half.hidden_size)
        self.encoder_attn = CrossAttention(half, layer)
        self.encoder_attn_layer_norm = LayerNorm(half.hidden_size)
        self.fc1 = Linear(half.hidden_size, half.ffn_size)
        self.fc2 = Linear(half.ffn_size, half.hidden_size)
        self.final_layer_norm = LayerNorm(half.hidden_size)

    def forward(self, stream: ResidualStream, step: DecoderStep) -> None:
        for sublayer, norm in (
            (self.self_attn, self.self_attn_layer_norm),
            (self.encoder_attn, self.encoder_attn_layer_norm),
            (self._feed_forward, self.final_layer_norm),
        ):
            sublayer(stream.normed(norm) if self.pre_norm else stream.value, stream, step)
            if not self.pre_norm:
                stream.renew(norm)

    def _feed_forward(self, x: Features, stream: ResidualStream, step: DecoderStep) -> None:
        stream.add(self.fc2, self.fc1(x, self.activation))


class BartDecoder(DecoderModel):
    def __init__(self, half: BartHalf, head: HeadTensors) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(half)
        self.layers = nn.ModuleList(DecoderLayer(half, layer) for layer in range(half.num_layers))
        self.layer_norm = LayerNorm(half.hidden_size) if half.pre_norm else None
        self.lm_head = OutputHead(
            half.hidden_size, half.vocab_size, self.embedding.embed_tokens if head.tied else None
        )
        self.final_logits_bias = (
            nn.Parameter(torch.zeros(1, half.vocab_size), requires_grad=False)
            if head.bias
            else None
        )

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, step: DecoderStep
    ) -> torch.Tensor:
        stream = ResidualStream(self.embedding(token_ids, positions))
        for layer in self.layers:
            layer(stream, step)
        return stream.value if self.layer_norm is None else stream.final(self.layer_norm)

    def self_attention_inputs(self) -> list[RowSource]:
        layers = [each for each in self.layers if isinstance(each, DecoderLayer)]
        if self.layer_norm is not None:  # pre-norm
            return [layer.self_attn_layer_norm for layer in layers]
        norm = self.embedding.layernorm_embedding
        first = norm if isinstance(norm, nn.LayerNorm) else self.embedding
        return [first, *(layer.final_layer_norm for layer in layers[:-1])]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.lm_head(hidden)
        return (
            found
            if self.final_logits_bias is None
            else found.float() + self.final_logits_bias.float()
        )
