"""The encoder of BART (Lewis et al. 2019) and its family: mBART, Pegasus, Marian, M2M-100/NLLB; its layer is Whisper's too."""

import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import TextEncoder
from antiphon.families.halves import BartHalf
from antiphon.layers.embeddings import TokenEmbedding
from antiphon.layers.linear import Activation, Features, Linear, StackedLinear
from antiphon.layers.norms import LayerNorm, ResidualStream


class SelfAttention(nn.Module):
    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        size = half.hidden_size
        self.heads = (half.num_heads, half.head_dim)
        self.qkv = StackedLinear(
            size,
            dict.fromkeys(("q_proj", "k_proj", "v_proj"), size),
            True,
            () if half.key_bias else ("k_proj",),
        )
        self.out_proj = Linear(size, size)

    def forward(
        self, x: Features, stream: ResidualStream, attention: FullAttention[M], metadata: M
    ) -> None:
        q, k, v = (
            part.unflatten(-1, self.heads) for part in self.qkv.split(x)
        )  # [tokens, heads, head_dim]
        stream.add(self.out_proj, attention.run(q, k, v, metadata).flatten(1))


class EncoderLayer(nn.Module):
    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        self.pre_norm = half.pre_norm
        self.activation = Activation(half.activation)
        self.self_attn = SelfAttention(half)
        self.self_attn_layer_norm = LayerNorm(half.hidden_size)
        self.fc1 = Linear(half.hidden_size, half.ffn_size)
        self.fc2 = Linear(half.ffn_size, half.hidden_size)
        self.final_layer_norm = LayerNorm(half.hidden_size)

    def forward(self, stream: ResidualStream, attention: FullAttention[M], metadata: M) -> None:
        for sublayer, norm in (
            (self.self_attn, self.self_attn_layer_norm),
            (self._feed_forward, self.final_layer_norm),
        ):
            sublayer(
                stream.normed(norm) if self.pre_norm else stream.value, stream, attention, metadata
            )
            if not self.pre_norm:
                stream.renew(norm)

    def _feed_forward(
        self, x: Features, stream: ResidualStream, attention: FullAttention[M], metadata: M
    ) -> None:
        stream.add(self.fc2, self.fc1(x, self.activation))


class BartEncoder(TextEncoder):
    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(half)
        self.layers = nn.ModuleList(EncoderLayer(half) for _ in range(half.num_layers))
        self.layer_norm = LayerNorm(half.hidden_size) if half.pre_norm else None

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embedding(token_ids, positions)
        return embedded

    def forward(self, x: torch.Tensor, attention: FullAttention[M], metadata: M) -> torch.Tensor:
        stream = ResidualStream(x)
        for layer in self.layers:
            layer(stream, attention, metadata)
        return stream.value if self.layer_norm is None else stream.final(self.layer_norm)
