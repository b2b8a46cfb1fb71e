"""Rotary positions (Su et al. 2021): queries and keys are turned by the angles of their position,
between their projection and the cache."""

from dataclasses import dataclass

import torch
from torch import nn

from antiphon.families.rotary import Rotary


@dataclass(frozen=True)
class Rotation:
    """The angles of a step's tokens, for all layers."""

    cos: torch.Tensor  # [tokens, size / 2] float32
    sin: torch.Tensor  # the same

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Turns queries or keys [tokens, heads, head_dim]: the first `size` features of each head,
        whose two halves are the two coordinates of the planes. Computed in float32."""
        half = self.cos.shape[1]
        cos, sin = self.cos[:, None], self.sin[:, None]
        first, second = x[..., :half].float(), x[..., half : 2 * half].float()
        turned = [first * cos - second * sin, second * cos + first * sin]
        rotated = torch.cat(turned, -1).to(x.dtype)
        if 2 * half == x.shape[-1]:
            return rotated
        return torch.cat([rotated, x[..., 2 * half :]], -1)


class RotaryTable(nn.Module):
    """Cosines and sines of every position up to `positions`: [positions, size / 2] float32 each.

    Computed, since checkpoints do not store them; float32 whatever the model's dtype, because
    angles grow with the position. The angles are rounded as transformers rounds them.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, rotary: Rotary, positions: int) -> None:
        super().__init__()
        frequencies = torch.tensor(rotary.frequencies(), dtype=torch.float32)
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, positions: torch.Tensor) -> Rotation:
        """[tokens] int64 -> the angles of these positions."""
        return Rotation(self.cos[positions], self.sin[positions])
