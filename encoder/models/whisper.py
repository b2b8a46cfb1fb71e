"""Whisper's encoder (Radford et al. 2022): two convolutions over the log-mel spectrogram, then
pre-norm BART layers."""

import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.bart import EncoderLayer
from antiphon.encoder.models.interface import EncoderModel
from antiphon.families.halves import WhisperEncoderHalf
from antiphon.layers.activations import Activation
from antiphon.layers.convolution import Convolution
from antiphon.layers.norms import LayerNorm
from antiphon.layers.residual import Residual


class WhisperEncoder(EncoderModel):
    def __init__(self, half: WhisperEncoderHalf) -> None:
        super().__init__()
        size = half.hidden_size
        self.conv1 = Convolution(half.mel_bins, size, 1, Activation("gelu"))
        self.conv2 = Convolution(size, size, 2, Activation("gelu"))
        self.embed_positions = nn.Embedding(half.max_positions, size)
        self.layers = nn.ModuleList(EncoderLayer(half) for _ in range(half.num_layers))
        self.layer_norm = LayerNorm(size)

    def forward(
        self,
        features: torch.Tensor,
        attention: FullAttention[M],
        metadata: M,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[windows, mel_bins, frames] -> packed hidden states [windows * frames / 2, hidden].

        With `rows` [tokens] int64, those rows alone: where windows differ in length.
        """
        x = self.conv2(self.conv1(features.transpose(1, 2)))  # [windows, frames / 2, hidden]
        packed = (x + self.embed_positions.weight[: x.shape[1]]).flatten(0, 1)
        residual = Residual(packed if rows is None else packed[rows])
        for layer in self.layers:
            residual = layer(residual, attention, metadata)
        return self.layer_norm.of_sum(residual)
