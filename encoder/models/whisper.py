"""Whisper's encoder (Radford et al. 2022): two convolutions over the log-mel spectrogram, then
pre-norm BART layers."""

from collections.abc import Mapping

import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.bart import EncoderLayer
from antiphon.encoder.models.interface import AudioEncoder
from antiphon.families.halves import WhisperEncoderHalf
from antiphon.layers.activations import Activation
from antiphon.layers.convolution import Convolution
from antiphon.layers.norms import LayerNorm
from antiphon.layers.shard import Part


class WhisperEncoder(AudioEncoder):
    def __init__(self, half: WhisperEncoderHalf, part: Part) -> None:
        super().__init__()
        size = half.hidden_size
        self.conv1 = self.conv2 = self.embed_positions = None
        if part.is_first:
            self.conv1 = Convolution(half.mel_bins, size, 1, Activation("gelu"))
            self.conv2 = Convolution(size, size, 2, Activation("gelu"))
            self.embed_positions = nn.Embedding(half.max_positions, size)
        self.layers = nn.ModuleList(EncoderLayer(half, part.shard) for _ in part.layers)
        self.layer_norm = LayerNorm(size) if part.is_last else None

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        assert self.conv1 is not None
        assert self.conv2 is not None
        assert self.embed_positions is not None
        x = self.conv2(self.conv1(features.transpose(1, 2)))  # [windows, frames / 2, hidden]
        embedded: torch.Tensor = x + self.embed_positions.weight[: x.shape[1]]
        return embedded

    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: object = None,
    ) -> torch.Tensor:
        return self.run_layers(x, attention, plans, self.layer_norm)
