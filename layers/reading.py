"""How modules get their tensors out of a checkpoint."""

from typing import Protocol, runtime_checkable

import torch

from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.shard import Spans

Weight = torch.Tensor | QuantizedWeight


class Read(Protocol):
    """What is held of a checkpoint's tensor, by its path in the model and spans."""

    def __call__(self, path: str, spans: Spans) -> torch.Tensor:
        """Plain numbers, also where the checkpoint has them quantised."""

    def weight(self, path: str, spans: Spans) -> Weight:
        """A linear layer's weight as it is stored. `path` is the layer's."""


@runtime_checkable
class SelfLoading(Protocol):
    """A module that fills itself: what checkpoints store is not what it holds."""

    def load(self, path: str, read: Read) -> None:
        """Fills the module at `path` of the model with the tensors that `read` gives."""
