"""The decoder of BART (Lewis et al. 2019), mBART, Pegasus, Marian, M2M-100/NLLB and Whisper."""

import torch
from torch import nn

from antiphon.decoder.models.interface import (
    CachedAttention,
    CrossWriter,
    DecoderModel,
    DecoderStep,
)
from antiphon.families.halves import BartHalf, HeadTensors
from antiphon.kv.pool import KVPool
from antiphon.layers.activations import Activation
from antiphon.layers.embeddings import OutputHead, TokenEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, LinearInput
from antiphon.layers.quantization.kv_scales import CachedProjections, ProjectionInput
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import Residual


class SelfAttention(CachedAttention):
    def __init__(self, half: BartHalf, layer: int) -> None:
        super().__init__()
        size, self.layer = half.hidden_size, layer
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), size)
        unbiased = () if half.key_bias else ("k_proj",)
        self.qkv = StackedLinear(size, parts, bias=True, unbiased=unbiased)
        self.out_proj = Linear(size, size)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.qkv, self.qkv, self.out_proj)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> what `out_proj` reads [tokens, hidden]; writes self KV."""
        q = self.qkv.queries(x, step.pool.destination(self.layer, step.slot_mapping))
        heads = step.causal.run(q, *step.pool.pages(self.layer))
        return heads.flatten(1)


class CrossAttention(CrossWriter):
    def __init__(self, half: BartHalf, layer: int) -> None:
        super().__init__()
        size, self.layer = half.hidden_size, layer
        self.heads = (half.num_heads, half.head_dim)
        self.q_proj = Linear(size, size)
        parts = dict.fromkeys(("k_proj", "v_proj"), size)
        unbiased = () if half.key_bias else ("k_proj",)
        self.kv = StackedLinear(size, parts, bias=True, unbiased=unbiased)
        self.out_proj = Linear(size, size)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.q_proj, self.kv, self.out_proj)

    def write(
        self, hidden: torch.Tensor | QuantizedRows, slot_mapping: torch.Tensor, pool: KVPool
    ) -> None:
        k, v = (part.unflatten(-1, self.heads) for part in self.kv.split(hidden))
        pool.write(self.layer, slot_mapping, k, v)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> what `out_proj` reads [tokens, hidden]."""
        q = self.q_proj(x).unflatten(-1, self.heads)
        assert step.cross is not None
        heads = step.cross.run(q, *step.pool.pages(self.layer))
        return heads.flatten(1)


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

    def forward(self, residual: Residual, step: DecoderStep) -> Residual:
        if self.pre_norm:
            return self._pre_norm(residual, step)
        return self._post_norm(residual, step)

    def _pre_norm(self, residual: Residual, step: DecoderStep) -> Residual:
        x, residual = self.self_attn_layer_norm(residual)
        x = self.self_attn(x, step)
        residual = self.self_attn.out_proj.add_to(residual, x)

        x, residual = self.encoder_attn_layer_norm(residual)
        x = self.encoder_attn(x, step)
        residual = self.encoder_attn.out_proj.add_to(residual, x)

        x, residual = self.final_layer_norm(residual)
        x = self.fc1.activated(x, self.activation)
        return self.fc2.add_to(residual, x)

    def _post_norm(self, residual: Residual, step: DecoderStep) -> Residual:
        x = self.self_attn(residual.x, step)
        residual = self.self_attn.out_proj.add_to(residual, x)
        residual = self.self_attn_layer_norm.renew(residual)

        x = self.encoder_attn(residual.x, step)
        residual = self.encoder_attn.out_proj.add_to(residual, x)
        residual = self.encoder_attn_layer_norm.renew(residual)

        x = self.fc1.activated(residual.x, self.activation)
        residual = self.fc2.add_to(residual, x)
        return self.final_layer_norm.renew(residual)


class BartDecoder(DecoderModel):
    def __init__(self, half: BartHalf, head: HeadTensors) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(half)
        self.layers = nn.ModuleList(DecoderLayer(half, layer) for layer in range(half.num_layers))
        self.layer_norm = LayerNorm(half.hidden_size) if half.pre_norm else None
        tied = self.embedding.embed_tokens if head.tied else None
        self.lm_head = OutputHead(half.hidden_size, half.vocab_size, tied)
        bias = torch.zeros(1, half.vocab_size)
        self.final_logits_bias = nn.Parameter(bias, requires_grad=False) if head.bias else None

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embedding(token_ids, positions)
        return embedded

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: DecoderStep) -> torch.Tensor:
        residual = Residual(x)
        for layer in self.layers:
            residual = layer(residual, step)
        return residual.x if self.layer_norm is None else self.layer_norm.of_sum(residual)

    def self_projections(self) -> list[tuple[CachedProjections, ProjectionInput]]:
        layers = [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
        if self.layer_norm is not None:  # pre-norm
            norms = [layer.self_attn_layer_norm for layer in layers]
            inputs = [ProjectionInput.of_norm(norm.weight, norm.bias) for norm in norms]
        else:
            norms = [layer.final_layer_norm for layer in layers[:-1]]
            inputs = [
                ProjectionInput.of_embedding(self.embedding),
                *(ProjectionInput.of_norm(norm.weight, norm.bias) for norm in norms),
            ]
        projections = [layer.self_attn.projections() for layer in layers]
        return list(zip(projections, inputs, strict=True))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.lm_head(hidden)
        bias = self.final_logits_bias
        return logits if bias is None else logits.float() + bias.float()
