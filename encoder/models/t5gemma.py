"""The encoder of T5Gemma (Zhang et al. 2025): Gemma 2's layers, in which all tokens see each
other."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import RotatedLayout, TextEncoder
from antiphon.encoder.models.length_sets import FULL
from antiphon.families.t5gemma_half import T5GemmaHalf
from antiphon.layers.embeddings import WordEmbedding
from antiphon.layers.gemma import FeedForward, add_normed, make_norm, make_projections, scaled
from antiphon.layers.norms import LinearInput
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import RotaryTable, Rotation
from antiphon.layers.shard import Part, Shard


class SelfAttention(nn.Module):
    def __init__(self, half: T5GemmaHalf, shard: Shard) -> None:
        super().__init__()
        self.head_dim = half.head_dim
        self.qkv, self.o_proj = make_projections(half, shard)

    def forward(
        self, x: LinearInput, attention: FullAttention[M], metadata: M, rotation: Rotation
    ) -> torch.Tensor:
        """[tokens, hidden] -> what `o_proj` reads [tokens, heads * head_dim]."""
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv.split(x))
        q, k = rotation.turn(q, k)
        return attention.run(q, k, v, metadata).flatten(1)


class EncoderLayer(nn.Module):
    lengths = FULL  # name of the set of lengths that it attends within

    def __init__(self, half: T5GemmaHalf, shard: Shard) -> None:
        super().__init__()
        self.pre_self_attn_layernorm = make_norm(half)
        self.attention = SelfAttention(half, shard)
        self.post_self_attn_layernorm = make_norm(half)
        self.pre_feedforward_layernorm = make_norm(half)
        self.feed_forward = FeedForward(half, shard)
        self.post_feedforward_layernorm = make_norm(half)

    def forward(
        self,
        residual: Residual,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        rotation: Rotation,
    ) -> Residual:
        x, residual = self.pre_self_attn_layernorm(residual)
        x = self.attention(x, attention, plans[self.lengths], rotation)
        output = self.attention.o_proj(x)
        residual = add_normed(self.post_self_attn_layernorm, residual, output)

        x, residual = self.pre_feedforward_layernorm(residual)
        output = self.feed_forward(x)
        return add_normed(self.post_feedforward_layernorm, residual, output)


class T5GemmaEncoder(TextEncoder):
    turns_positions: ClassVar[bool] = True

    def __init__(self, half: T5GemmaHalf, part: Part) -> None:
        super().__init__()
        size, shard = half.hidden_size, part.shard
        self.size = size
        self.embed_tokens = WordEmbedding(half.vocab_size, size, shard) if part.is_first else None
        self.rotary = RotaryTable(half.rotary, half.max_positions)
        self.layers = nn.ModuleList(EncoderLayer(half, shard) for _ in part.layers)
        self.norm = make_norm(half) if part.is_last else None

    def layout(self, lengths: Mapping[str, np.ndarray], positions: torch.Tensor) -> RotatedLayout:
        return RotatedLayout(lengths, self.rotary(positions))

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Positions turn queries and keys instead."""
        assert self.embed_tokens is not None
        embedded: torch.Tensor = self.embed_tokens(token_ids)
        return scaled(embedded, self.size)

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: RotatedLayout | None = None,
    ) -> torch.Tensor:
        assert layout is not None
        return self.run_layers(x, attention, plans, self.norm, layout.rotation)
