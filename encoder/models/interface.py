"""What the runner and the frontends need of an encoder, whatever its structure."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.length_sets import FULL, LengthSet, WholeInputs


class EncoderModel(nn.Module):
    """Layers over embedded tokens; how tokens are embedded depends on the kind of input."""

    # By name, which its layers know: each of them attends within the sequences of one set.
    length_sets: Mapping[str, LengthSet] = MappingProxyType({FULL: WholeInputs()})
    layers: nn.ModuleList

    @abstractmethod
    def forward(
        self, x: torch.Tensor, attention: FullAttention[M], plans: Mapping[str, M]
    ) -> torch.Tensor:
        """Packed embedded tokens [tokens, hidden] -> hidden states of that shape. Of a part that is
        not the last one: the stream, which the next part takes in place of embedded tokens.

        `plans`: what `attention` planned for each of `length_sets`.
        """

    def lengths(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The lengths [sequences] int of each set, of inputs of these lengths [inputs] int."""
        return {name: lengths.lengths(inputs) for name, lengths in self.length_sets.items()}


class TextEncoder(EncoderModel):
    @abstractmethod
    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Packed [tokens] int64 ids and positions -> [tokens, hidden]."""


class AudioEncoder(EncoderModel):
    @abstractmethod
    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Spectrograms [windows, mel_bins, frames] -> [windows, frames / 2, hidden]."""
