"""What the runner and the frontends need of an encoder, whatever its structure."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from antiphon.attention.interface import FullAttention, M
from antiphon.encoder.models.length_sets import FULL, LengthSet, WholeInputs
from antiphon.families.image_halves import ImageShape
from antiphon.layers.norms import Norm
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import Rotation
from antiphon.runtime.graphs import TYPICAL_LAYERS


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch lie.

    `lengths`: of the sequences of each of the model's sets, by name. Models that need to know more
    have layouts of their own.
    """

    lengths: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RotatedLayout(Layout):
    """Of layers that turn queries and keys by `rotation`."""

    rotation: Rotation


class PatchLayout(Layout):
    """Of a `PatchEncoder`."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that it has on the device: their sizes follow from the number of tokens alone."""


class EncoderModel(nn.Module):
    """Layers over embedded tokens; how tokens are embedded depends on the kind of input."""

    # By name, which its layers know: each of them attends within the sequences of one set.
    length_sets: Mapping[str, LengthSet] = MappingProxyType({FULL: WholeInputs()})
    layers: nn.ModuleList

    @property
    def typical_layers(self) -> int:
        """So many of its first layers launch every kernel; `forward` can do with these."""
        return TYPICAL_LAYERS

    @abstractmethod
    def forward(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        layout: Any = None,
    ) -> torch.Tensor:
        """Packed embedded tokens [tokens, hidden] -> hidden states [rows, output size]; rows are
        the tokens, unless the model makes others of them. Of a part that is not the last one: the
        stream [tokens, hidden], which the next part takes in place of embedded tokens.

        `plans`: what `attention` planned for each of `length_sets`. `layout`: of the batch, for
        models that have one of their own.
        """

    def run_layers(
        self,
        x: torch.Tensor,
        attention: FullAttention[M],
        plans: Mapping[str, M],
        norm: Norm | None,
        *shared: object,
    ) -> torch.Tensor:
        """All layers one after another, each of which takes what is `shared`, and the last `norm`;
        the parameters and the result of `forward` otherwise."""
        residual = Residual(x)
        for layer in self.layers:
            residual = layer(residual, attention, plans, *shared)
        return residual.total() if norm is None else norm.of_sum(residual)

    def pool(self, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Hidden states of inputs of these `lengths`, packed [rows, output size] -> one embedding
        of each [inputs, pooled size]. Raises ValueError for a model without pooling."""
        raise ValueError("this encoder has no pooling: it gives hidden states alone")

    def lengths(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The lengths [sequences] int of each set, of inputs of these lengths [inputs] int."""
        return {name: lengths.lengths(inputs) for name, lengths in self.length_sets.items()}


class TextEncoder(EncoderModel):
    """`turns_positions`: its layers, not its embedding, read positions."""

    turns_positions: ClassVar[bool] = False

    def layout(self, lengths: Mapping[str, np.ndarray], positions: torch.Tensor) -> Layout:
        """Of sequences of these `lengths`, whose tokens have `positions` [tokens] int64."""
        return Layout(lengths)

    @abstractmethod
    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Packed [tokens] int64 ids and positions -> [tokens, hidden]."""


class AudioEncoder(EncoderModel):
    @abstractmethod
    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Spectrograms [windows, mel_bins, frames] -> [windows, frames / 2, hidden]."""


class ImageEncoder(EncoderModel):
    @abstractmethod
    def layout(self, images: Sequence[ImageShape]) -> Any:
        """Where the tokens of a batch of `images` lie: a `Layout` with tensors on the device."""

    @abstractmethod
    def embed(self, pixels: Sequence[torch.Tensor], layout: Any) -> torch.Tensor:
        """Images, those of equal sizes as one array -> packed [tokens, hidden]."""

    def assembled(self, rows: torch.Tensor, images: Sequence[ImageShape]) -> torch.Tensor:
        """What comes out, of the rows of all tiles of `images` that `forward` gives."""
        return rows


class PatchEncoder(ImageEncoder):
    """Of images of any sizes, whose patches stand one behind the other."""

    @abstractmethod
    def layout(self, images: Sequence[ImageShape]) -> PatchLayout: ...

    @abstractmethod
    def sequences(self, images: Sequence[ImageShape]) -> dict[str, int]:
        """How many each set of a batch of `images` has."""

    @abstractmethod
    def longest(self, tokens: int) -> dict[str, int]:
        """The longest sequence of each set that so many tokens can have."""

    @abstractmethod
    def filler(self, tokens: int) -> ImageShape:
        """An image of exactly so many tokens, a multiple of those that become one row."""
