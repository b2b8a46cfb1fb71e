"""What turns an image encoder's hidden states into rows of a decoder's width."""

import torch
from torch import nn

from antiphon.families.image_halves import Projector as ProjectorDescription
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear
from antiphon.layers.norms import LayerNorm


class Projector(nn.Module):
    """One or two linear layers, behind a norm of merged patches in some families (InternVL). Each
    rank has all of it: it is a small part of an encoder's work."""

    def __init__(self, half: ProjectorDescription, hidden_size: int) -> None:
        super().__init__()
        merged = hidden_size * half.merge**2
        self.merge = half.merge
        self.norm = LayerNorm(merged, half.norm_eps) if half.norm else None
        inner = half.inner_size or half.output_size
        self.linear_1 = Linear(merged, inner, half.bias)
        self.activation = self.linear_2 = None
        if half.activation is not None:
            self.activation = Activation(half.activation)
            self.linear_2 = Linear(inner, half.output_size, half.bias)

    def of_grids(self, x: torch.Tensor) -> torch.Tensor:
        """Grids of patches [tiles, rows, columns, hidden] -> [rows that come out, output size]."""
        if self.merge > 1:
            x = x.unflatten(2, (-1, self.merge)).unflatten(1, (-1, self.merge))
            x = x.transpose(2, 3)  # [tiles, rows, columns, merge, merge, hidden]
        merged = x.reshape(-1, self.linear_1.inputs.count)
        rows: torch.Tensor = self(merged)
        return rows

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        """Patches side by side [rows, merge * merge * hidden] -> [rows, output size]."""
        if self.norm is not None:
            merged = self.norm.in_torch(merged)
        if self.activation is None or self.linear_2 is None:
            projected: torch.Tensor = self.linear_1(merged)
        else:
            projected = self.linear_2(self.linear_1.activated(merged, self.activation))
        return projected
