"""A convolution over frames as one matrix product."""

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear
from antiphon.layers.reading import Read
from antiphon.layers.shard import whole

TAPS = 3  # frames that one output sees


class Convolution(nn.Module):
    """Over three frames of `inputs` features, with an activation behind.

    Frames lie one after the other with their features side by side, so three frames in
    a row are one row of a linear layer's input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.product = Linear(TAPS * inputs, outputs)
        self.stride, self.activation = stride, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[windows, frames, inputs] -> [windows, frames / stride, outputs]; zeros lie around x."""
        padded = F.pad(x, (0, 0, 1, 1))
        windows, frames, inputs = padded.shape
        rows = padded.as_strided(
            (windows, (frames - TAPS) // self.stride + 1, TAPS * inputs),
            (frames * inputs, self.stride * inputs, 1),
        )
        outputs = self.product.activated(rows.flatten(0, 1), self.activation)
        assert isinstance(outputs, torch.Tensor), "convolutions are not quantized"
        return outputs.unflatten(0, (windows, -1))

    def load(self, path: str, read: Read) -> None:
        """Fills the layer at `path`; a checkpoint stores the weight as [outputs, inputs, 3]."""
        bias, (outputs, features) = self.product.bias, self.product.shape
        stored = read(f"{path}.weight", whole(outputs, features // TAPS, TAPS))
        self.product.fill(stored.permute(0, 2, 1).flatten(1))
        assert bias is not None
        bias.copy_(read(f"{path}.bias", whole(outputs)))
