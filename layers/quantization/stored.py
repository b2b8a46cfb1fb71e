"""Which method computes a layer whose weight came quantised."""

from collections.abc import Iterator
from typing import Protocol

from torch import nn

from antiphon.layers.linear import Linear, LinearMethod
from antiphon.layers.quantization.dequantized import DequantizedProduct
from antiphon.runtime.device import Target


class Modules(Protocol):
    def modules(self) -> Iterator[nn.Module]: ...


def choose_stored(model: Modules, target: Target) -> None:
    """For every layer with a quantised weight, the fastest method that has its scheme here."""
    for module in model.modules():
        if isinstance(module, Linear) and module.quantized is not None:
            module.use(method_for(module, target))


def method_for(layer: Linear, target: Target) -> LinearMethod:
    return DequantizedProduct()
