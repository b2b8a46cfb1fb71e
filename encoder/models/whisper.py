"""Whisper's encoder (Radford et al. 2022): two convolutions over the log-mel spectrogram, then pre-norm BART layers."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.attention.interface import AttentionBackend
from antiphon.config.families import BartHalf
from antiphon.encoder.models.bart import EncoderLayer
from antiphon.encoder.models.interface import EncoderModel
from antiphon.layers.norms import LayerNorm, ResidualStream


class WhisperEncoder(EncoderModel):
    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        size = half.hidden_size
        self.conv1 = nn.Conv1d(half.mel_bins, size, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(size, size, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(half.max_positions, size)
        self.layers = nn.ModuleList(EncoderLayer(half) for _ in range(half.num_layers))
        self.layer_norm = LayerNorm(size)

    def forward(
        self, features: torch.Tensor, attention: AttentionBackend, plan: Any, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[windows, mel_bins, frames] -> packed [windows * frames / 2, hidden], or of those only `rows`, where windows differ."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)  # [windows, frames / 2, hidden]
        packed = (x + self.embed_positions.weight[: x.shape[1]]).flatten(0, 1)
        stream = ResidualStream(packed if rows is None else packed[rows])
        for layer in self.layers:
            layer(stream, attention, plan)
        return stream.final(self.layer_norm)

    @staticmethod
    def checkpoint_names(path: str) -> tuple[str, ...]:
        return f"model.encoder.{path}", f"encoder.{path}"
