"""The encoder of BART (Lewis et al. 2019), mBART, Pegasus, Marian and M2M-100/NLLB.

Its layer is Whisper's too.
"""

from collections.abc import Mapping

import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import TextEncoder
from antiphon.encoder.models.length_sets import FULL
from antiphon.families.halves import BartHalf
from antiphon.layers.activations import Activation
from antiphon.layers.embeddings import TokenEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, LinearInput
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Part, Shard


class SelfAttention(nn.Module):
    def __init__(self, half: BartHalf, shard: Shard) -> None:
        super().__init__()
        size, heads = half.hidden_size, shard.heads_of(half)
        self.heads = (heads.queries.count, half.head_dim)
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), heads.query_features)
        unbiased = () if half.key_bias else ("k_proj",)
        self.qkv = StackedLinear(size, parts, bias=True, unbiased=unbiased)
        self.out_proj = Linear(heads.query_features, size, summed_over=shard.group)

    def forward(self, x: LinearInput, attention: FullAttention[M], metadata: M) -> torch.Tensor:
        """[tokens, hidden] -> what `out_proj` reads [tokens, heads * head_dim]."""
        q, k, v = (part.unflatten(-1, self.heads) for part in self.qkv.split(x))
        return attention.run(q, k, v, metadata).flatten(1)


class EncoderLayer(nn.Module):
    lengths = FULL  # name of the set of lengths that it attends within

    def __init__(self, half: BartHalf, shard: Shard) -> None:
        super().__init__()
        self.pre_norm = half.pre_norm
        self.activation = Activation(half.activation)
        self.self_attn = SelfAttention(half, shard)
        self.self_attn_layer_norm = LayerNorm(half.hidden_size)
        inner = shard.features(half.ffn_size)
        self.fc1 = Linear(half.hidden_size, inner)
        self.fc2 = Linear(inner, half.hidden_size, summed_over=shard.group)
        self.final_layer_norm = LayerNorm(half.hidden_size)

    def forward(
        self, residual: Residual, attention: FullAttention[M], plans: Mapping[str, M]
    ) -> Residual:
        metadata = plans[self.lengths]
        if self.pre_norm:
            return self._pre_norm(residual, attention, metadata)
        return self._post_norm(residual, attention, metadata)

    def _pre_norm(self, residual: Residual, attention: FullAttention[M], metadata: M) -> Residual:
        x, residual = self.self_attn_layer_norm(residual)
        x = self.self_attn(x, attention, metadata)
        residual = self.self_attn.out_proj.add_to(residual, x)

        x, residual = self.final_layer_norm(residual)
        x = self.fc1.activated(x, self.activation)
        return self.fc2.add_to(residual, x)

    def _post_norm(self, residual: Residual, attention: FullAttention[M], metadata: M) -> Residual:
        x = self.self_attn(residual.x, attention, metadata)
        residual = self.self_attn.out_proj.add_to(residual, x)
        residual = self.self_attn_layer_norm.renew(residual)

        x = self.fc1.activated(residual.x, self.activation)
        residual = self.fc2.add_to(residual, x)
        return self.final_layer_norm.renew(residual)


class BartEncoder(TextEncoder):
    def __init__(self, half: BartHalf, part: Part) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(half, part.shard) if part.is_first else None
        self.layers = nn.ModuleList(EncoderLayer(half, part.shard) for _ in part.layers)
        has_norm = half.pre_norm and part.is_last
        self.layer_norm = LayerNorm(half.hidden_size) if has_norm else None

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert self.embedding is not None
        embedded: torch.Tensor = self.embedding(token_ids, positions)
        return embedded

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: object = None,
    ) -> torch.Tensor:
        return self.run_layers(x, attention, plans, self.layer_norm)
