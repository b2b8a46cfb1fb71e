"""Whisper's encoder (Radford et al. 2022): two convolutions over the log-mel spectrogram, then pre-norm BART layers."""

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.bart import EncoderLayer
from antiphon.encoder.models.interface import AudioEncoder
from antiphon.families.halves import WhisperEncoderHalf
from antiphon.layers.linear import Activation, activated_product
from antiphon.layers.norms import LayerNorm, ResidualStream


class Convolution(nn.Conv1d):
    """Over three frames, with GELU behind, as one matrix product: frames come with their features side by side, so three frames are a
    row of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, stride=stride, padding=1)
        self.activation = Activation("gelu")
        self._taps: torch.Tensor | None = (
            None  # [outputs, 3 * inputs]: the weight as a row of the product has it; made once
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[windows, frames, inputs] -> [windows, frames / stride, outputs]"""
        padded = F.pad(x, (0, 0, 1, 1))
        windows, frames, inputs = padded.shape
        stride = self.stride[0]
        taps = padded.as_strided(
            (windows, (frames - 3) // stride + 1, 3 * inputs), (frames * inputs, stride * inputs, 1)
        )
        if self._taps is None:
            self._taps = self.weight.permute(0, 2, 1).flatten(1)
        found: torch.Tensor = activated_product(
            taps.flatten(0, 1), self._taps, self.bias, self.activation
        )
        return found.unflatten(0, (windows, -1))


class WhisperEncoder(AudioEncoder):
    def __init__(self, half: WhisperEncoderHalf) -> None:
        super().__init__()
        size = half.hidden_size
        self.conv1 = Convolution(half.mel_bins, size, stride=1)
        self.conv2 = Convolution(size, size, stride=2)
        self.embed_positions = nn.Embedding(half.max_positions, size)
        self.layers = nn.ModuleList(EncoderLayer(half) for _ in range(half.num_layers))
        self.layer_norm = LayerNorm(size)

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.conv1(features.transpose(1, 2)))  # [windows, frames / 2, hidden]
        embedded: torch.Tensor = x + self.embed_positions.weight[: x.shape[1]]
        return embedded

    def forward(self, x: torch.Tensor, attention: FullAttention[M], metadata: M) -> torch.Tensor:
        stream = ResidualStream(x)
        for layer in self.layers:
            layer(stream, attention, metadata)
        return stream.final(self.layer_norm)
