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


class SelfAttention(nn.Module):
    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        size = half.hidden_size
        self.heads = (half.num_heads, half.head_dim)
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), size)
        unbiased = () if half.key_bias else ("k_proj",)
        self.qkv = StackedLinear(size, parts, bias=True, unbiased=unbiased)
        self.out_proj = Linear(size, size)

    def forward(self, x: LinearInput, attention: FullAttention[M], metadata: M) -> torch.Tensor:
        """[tokens, hidden] -> what `out_proj` reads [tokens, hidden]."""
        q, k, v = (part.unflatten(-1, self.heads) for part in self.qkv.split(x))
        return attention.run(q, k, v, metadata).flatten(1)


class EncoderLayer(nn.Module):
    lengths = FULL  # name of the set of lengths that it attends within

    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        self.pre_norm = half.pre_norm
        self.activation = Activation(half.activation)
        self.self_attn = SelfAttention(half)
        self.self_attn_layer_norm = LayerNorm(half.hidden_size)
        self.fc1 = Linear(half.hidden_size, half.ffn_size)
        self.fc2 = Linear(half.ffn_size, half.hidden_size)
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
    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(half)
        self.layers = nn.ModuleList(EncoderLayer(half) for _ in range(half.num_layers))
        self.layer_norm = LayerNorm(half.hidden_size) if half.pre_norm else None

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embedding(token_ids, positions)
        return embedded

    def forward(
        self, x: torch.Tensor, attention: FullAttention[M], plans: Mapping[str, M]
    ) -> torch.Tensor:
        residual = Residual(x)
        for layer in self.layers:
            residual = layer(residual, attention, plans)
        return residual.x if self.layer_norm is None else self.layer_norm.of_sum(residual)
