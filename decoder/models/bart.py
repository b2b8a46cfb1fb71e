"""The decoder of BART (Lewis et al. 2019), mBART, Pegasus, Marian, M2M-100/NLLB,
Whisper and TrOCR."""

import torch
from torch import nn

from antiphon.decoder.models.interface import (
    CachedAttention,
    CachedCrossAttention,
    DecoderModel,
    DecoderStep,
)
from antiphon.families.halves import BartHalf, HeadTensors
from antiphon.layers.activations import Activation
from antiphon.layers.embeddings import OutputHead, TokenEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, LinearInput
from antiphon.layers.quantization.kv_scales import CachedProjections, ProjectionInput
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Part, Shard, Span, Spans


class SelfAttention(CachedAttention):
    def __init__(self, half: BartHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        size, self.layer, inner = half.hidden_size, layer, shard.heads_of(half).query_features
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), inner)
        unbiased = () if half.key_bias else ("k_proj",)
        self.qkv = StackedLinear(size, parts, bias=True, unbiased=unbiased)
        self.out_proj = Linear(inner, size, summed_over=shard.group)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.qkv, self.qkv, self.out_proj)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> `out_proj`'s [tokens, heads * head_dim]; writes self
        KV."""
        q = self.qkv.queries(x, step.pool.destination(self.layer, step.slot_mapping))
        heads = step.causal.run(q, *step.pool.pages(self.layer))
        return heads.flatten(1)


class CrossAttention(CachedCrossAttention):
    def __init__(self, half: BartHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        size, self.layer, heads = half.hidden_size, layer, shard.heads_of(half)
        self.head_dim, inner = half.head_dim, heads.query_features
        self.q_proj = Linear(size, inner)
        parts = dict.fromkeys(("k_proj", "v_proj"), inner)
        unbiased = () if half.key_bias else ("k_proj",)
        self.kv = StackedLinear(half.cross_size or size, parts, bias=True, unbiased=unbiased)
        self.out_proj = Linear(inner, size, summed_over=shard.group)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.q_proj, self.kv, self.out_proj)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> what `out_proj` reads [tokens, heads * head_dim]."""
        return self.attend(self.q_proj(x), step)


class DecoderLayer(nn.Module):
    def __init__(self, half: BartHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        self.pre_norm = half.pre_norm
        self.activation = Activation(half.activation)
        self.self_attn = SelfAttention(half, layer, shard)
        self.self_attn_layer_norm = LayerNorm(half.hidden_size)
        self.encoder_attn = CrossAttention(half, layer, shard)
        self.encoder_attn_layer_norm = LayerNorm(half.hidden_size)
        inner = shard.features(half.ffn_size)
        self.fc1 = Linear(half.hidden_size, inner)
        self.fc2 = Linear(inner, half.hidden_size, summed_over=shard.group)
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
    def __init__(self, half: BartHalf, head: HeadTensors, part: Part) -> None:
        super().__init__()
        size, shard = half.hidden_size, part.shard
        self.embedding = TokenEmbedding(half, shard) if part.is_first else None
        self.layers = nn.ModuleList(
            DecoderLayer(half, layer, shard) for layer in range(len(part.layers))
        )
        # The norm of the layer before bounds the first keys and values of a later part.
        self.before = nn.ModuleDict()
        if not (part.is_first or half.pre_norm):
            self.before["final_layer_norm"] = LayerNorm(size)
        self.layer_norm = LayerNorm(size) if half.pre_norm and part.is_last else None
        self.lm_head: OutputHead | None = None
        self.final_logits_bias: nn.Parameter | None = None
        if part.is_last:
            tied = self.embedding.embed_tokens if self.embedding and head.tied else None
            self.lm_head = OutputHead(size, half.vocab_size, shard, tied)
            if head.bias:
                bias = torch.zeros(1, self.lm_head.words.count)
                self.final_logits_bias = nn.Parameter(bias, requires_grad=False)

    @property
    def shares(self) -> dict[str, Spans]:
        if self.lm_head is None:
            return {}
        return {"final_logits_bias": (Span.whole(1), self.lm_head.words)}

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert self.embedding is not None
        embedded: torch.Tensor = self.embedding(token_ids, positions)
        return embedded

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: DecoderStep) -> torch.Tensor:
        residual = Residual(x)
        for layer in self.layers:
            residual = layer(residual, step)
        return residual.total() if self.layer_norm is None else self.layer_norm.of_sum(residual)

    def self_projections(self) -> list[tuple[CachedProjections, ProjectionInput]]:
        layers = [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
        if layers[0].pre_norm:
            norms = [layer.self_attn_layer_norm for layer in layers]
        else:
            before = [norm for norm in self.before.values() if isinstance(norm, LayerNorm)]
            norms = [*before, *(layer.final_layer_norm for layer in layers[:-1])]
        inputs = [ProjectionInput.of_norm(norm.weight, norm.bias) for norm in norms]
        if len(inputs) < len(layers):
            assert self.embedding is not None
            inputs.insert(0, ProjectionInput.of_embedding(self.embedding))
        projections = [layer.self_attn.projections() for layer in layers]
        return list(zip(projections, inputs, strict=True))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self.lm_head is not None
        logits: torch.Tensor = self.lm_head(hidden)
        bias = self.final_logits_bias
        return logits if bias is None else logits.float() + bias.float()
