"""What a way of storing quantised weights must tell."""

from abc import ABC, abstractmethod
from collections.abc import Container
from typing import Protocol

import torch

from antiphon.families.quantization.scheme import StoredQuantization
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.shard import Spans


class Tensors(Container[str], Protocol):
    """A checkpoint's tensors, as they are stored."""

    def tensor(self, name: str) -> torch.Tensor:
        """All of it. Raises CheckpointError where it can't be read."""

    def block(self, name: str, spans: Spans) -> torch.Tensor:
        """What `spans` say of it; only that is read. Raises CheckpointError, also for a tensor of
        another shape than that of `spans`."""


class Format(ABC):
    """Reads the quantised weights of a checkpoint. `layer`: a layer's name in it."""

    def __init__(self, quantization: StoredQuantization) -> None:
        self.quantization = quantization

    @abstractmethod
    def names(self, layer: str, tensors: Container[str]) -> tuple[str, ...]:
        """The tensors that are the weight of `layer`, where it is quantised, else none. Those
        that a checkpoint may lack are named only where they are there."""

    @abstractmethod
    def read(self, layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
        """Rows (outputs) and columns (inputs) of the quantised weight of `layer`.

        Raises CheckpointError for tensors that are missing, of another shape or dtype, or that
        contradict `quantization_config`; UnsupportedModelError for what is not read.
        """


def existing(layer: str, parts: tuple[str, ...], tensors: Container[str]) -> tuple[str, ...]:
    """Names of the `parts` of a layer that are there."""
    names = (f"{layer}.{part}" for part in parts)
    return tuple(name for name in names if name in tensors)
