"""Moonshine's encoder (Jeffries et al. 2024): three convolutions over samples, then pre-norm layers
with rotary positions.

The first convolution is normed over all of its clip, so frames behind a clip's end are left out of
its statistics where clips of several lengths are padded to one.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.interface import EncoderModel, RotatedLayout
from antiphon.encoder.models.length_sets import FULL
from antiphon.families.audio_config import CONVOLUTIONS
from antiphon.families.moonshine_half import MoonshineEncoderHalf
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear
from antiphon.layers.norms import LinearInput
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import RotaryTable, Rotation
from antiphon.layers.shard import Part, Shard
from antiphon.layers.stored_linear import InterleavedLinear
from antiphon.layers.unbiased_norm import UnbiasedLayerNorm
from antiphon.runtime.device import to_device

GROUP_NORM_EPS = 1e-5


class ClipNorm(nn.Module):
    """A group norm of one group: over all features and all frames of a clip."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(size), requires_grad=False)

    def forward(self, x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """[clips, size, longest] of which clips have `frames` [clips] int64 -> the same; what is
        behind a clip's end means nothing. Statistics are float32."""
        place = torch.arange(x.shape[2], device=x.device)
        inside = (place < frames[:, None])[:, None]
        count = (frames * x.shape[1])[:, None, None]
        wide = x.float()
        mean = (wide * inside).sum((1, 2), keepdim=True) / count
        apart = wide - mean
        variance = (apart.square() * inside).sum((1, 2), keepdim=True) / count
        normed = (apart * torch.rsqrt(variance + GROUP_NORM_EPS)).to(x.dtype)
        return normed * self.weight[:, None] + self.bias[:, None]


class SelfAttention(nn.Module):
    def __init__(self, half: MoonshineEncoderHalf, shard: Shard) -> None:
        super().__init__()
        size, heads = half.hidden_size, shard.heads_of(half)
        self.heads, inner = (heads.queries.count, half.head_dim), heads.query_features
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj"), inner)
        self.qkv = InterleavedLinear(size, parts, half.qkv_bias, heads, half.rotary.size)
        self.o_proj = Linear(inner, size, bias=False, summed_over=shard.group)

    def forward(
        self, x: LinearInput, attention: FullAttention[M], metadata: M, rotation: Rotation
    ) -> torch.Tensor:
        """[tokens, hidden] -> what `o_proj` reads [tokens, heads * head_dim]."""
        q, k, v = (part.unflatten(-1, self.heads) for part in self.qkv.split(x))
        q, k = rotation.turn(q, k)
        return attention.run(q, k, v, metadata).flatten(1)


class EncoderLayer(nn.Module):
    lengths = FULL  # name of the set of lengths that it attends within

    def __init__(self, half: MoonshineEncoderHalf, shard: Shard) -> None:
        super().__init__()
        size, inner = half.hidden_size, shard.features(half.ffn_size)
        self.input_layernorm = UnbiasedLayerNorm(size)
        self.attention = SelfAttention(half, shard)
        self.post_attention_layernorm = UnbiasedLayerNorm(size)
        self.activation = Activation(half.activation)
        self.fc1 = Linear(size, inner)
        self.fc2 = Linear(inner, size, summed_over=shard.group)

    def forward(
        self,
        residual: Residual,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        rotation: Rotation,
    ) -> Residual:
        x, residual = self.input_layernorm(residual)
        x = self.attention(x, attention, plans[self.lengths], rotation)
        residual = self.attention.o_proj.add_to(residual, x)

        x, residual = self.post_attention_layernorm(residual)
        return self.fc2.add_to(residual, self.fc1.activated(x, self.activation))


class MoonshineEncoder(EncoderModel):
    def __init__(self, half: MoonshineEncoderHalf, part: Part) -> None:
        super().__init__()
        size = half.hidden_size
        self.conv1 = self.groupnorm = self.conv2 = self.conv3 = None
        if part.is_first:
            first, second, third = CONVOLUTIONS
            self.conv1 = nn.Conv1d(1, size, *first, bias=False)
            self.groupnorm = ClipNorm(size)
            self.conv2 = nn.Conv1d(size, 2 * size, *second)
            self.conv3 = nn.Conv1d(2 * size, size, *third)
        self.rotary = RotaryTable(half.rotary, half.max_positions)
        self.layers = nn.ModuleList(EncoderLayer(half, part.shard) for _ in part.layers)
        self.layer_norm = UnbiasedLayerNorm(size) if part.is_last else None

    def embed(self, samples: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Clips [clips, samples], of which the first convolution has `frames` [clips] int64 ->
        [clips, tokens, hidden]; those behind a clip's end mean nothing."""
        assert self.conv1 is not None
        assert self.groupnorm is not None
        assert self.conv2 is not None
        assert self.conv3 is not None
        x = self.groupnorm(torch.tanh(self.conv1(samples[:, None])), frames)
        embedded: torch.Tensor = F.gelu(self.conv3(F.gelu(self.conv2(x))))
        return embedded.transpose(1, 2)

    def layout(self, lengths: np.ndarray) -> RotatedLayout:
        """Of clips that become so many tokens [clips] int."""
        positions = np.concatenate([np.arange(length) for length in lengths])
        rotation = self.rotary(to_device(positions, self.rotary.cos.device))
        return RotatedLayout(self.lengths(lengths), rotation)

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: RotatedLayout | None = None,
    ) -> torch.Tensor:
        assert layout is not None
        return self.run_layers(x, attention, plans, self.layer_norm, layout.rotation)
