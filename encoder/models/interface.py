"""What the runner and the frontends need of an encoder, whatever its structure."""

from abc import abstractmethod

import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M


class EncoderModel(nn.Module):
    """Layers over embedded tokens; how tokens are embedded depends on the kind of input."""

    layers: nn.ModuleList

    @abstractmethod
    def forward(self, x: torch.Tensor, attention: FullAttention[M], metadata: M) -> torch.Tensor:
        """Packed embedded tokens [tokens, hidden] -> hidden states of that shape."""


class TextEncoder(EncoderModel):
    @abstractmethod
    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Packed [tokens] int64 ids and positions -> [tokens, hidden]."""


class AudioEncoder(EncoderModel):
    @abstractmethod
    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Spectrograms [windows, mel_bins, frames] -> [windows, frames / 2, hidden]."""
