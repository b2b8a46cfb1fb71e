"""What happens to queries and keys between their projection and the cache: a norm of
each head (Qwen3), and rotary positions (Su et al. 2021), which turn them by the angles
of their position."""

from dataclasses import dataclass

import torch
from torch import nn

from antiphon.families.rotary import Rotary
from antiphon.layers.norms import RMSNorm
from antiphon.layers.residual import Residual


@dataclass(frozen=True)
class Rotation:
    """The angles of a step's tokens, for all layers."""

    cos: torch.Tensor  # [tokens, size / 2] float32
    sin: torch.Tensor  # the same

    def turn(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys, each as `apply` turns them: on a GPU both in one launch."""
        if q.device.type == "cuda":
            from antiphon.kernels.rotary import turned  # Triton exists where CUDA does

            return turned(q, k, self.cos, self.sin)
        return self.apply(q), self.apply(k)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Turns queries or keys [tokens, heads, head_dim]: the first `size` features of
        each head, whose two halves are the two coordinates of the planes. Computed in
        float32."""
        half = self.cos.shape[1]
        cos, sin = self.cos[:, None], self.sin[:, None]
        first, second = x[..., :half].float(), x[..., half : 2 * half].float()
        turned = [first * cos - second * sin, second * cos + first * sin]
        rotated = torch.cat(turned, -1).to(x.dtype)
        if 2 * half == x.shape[-1]:
            return rotated
        return torch.cat([rotated, x[..., 2 * half :]], -1)


class HeadNorms(nn.Module):
    """RMS norms of every head of queries and of keys, one gain [head_dim] for all heads of each."""

    def __init__(self, head_dim: int, eps: float) -> None:
        super().__init__()
        self.q_norm, self.k_norm = RMSNorm(head_dim, eps), RMSNorm(head_dim, eps)

    def norm(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[tokens, heads, head_dim] each -> the same, normed."""
        return self.queries(q), self.keys(k)

    def queries(self, q: torch.Tensor) -> torch.Tensor:
        return _norm_heads(self.q_norm, q)

    def keys(self, k: torch.Tensor) -> torch.Tensor:
        return _norm_heads(self.k_norm, k)


def _norm_heads(norm: RMSNorm, x: torch.Tensor) -> torch.Tensor:
    return norm.of_sum(Residual(x.reshape(-1, x.shape[-1]))).view(x.shape)


class RotaryTable(nn.Module):
    """Cosines and sines of every position up to `positions`: [positions, size / 2] float32 each.

    Computed, since checkpoints do not store them; float32 whatever the model's dtype,
    because angles grow with the position. The angles are rounded as transformers rounds
    them.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    axes: torch.Tensor  # [size / 2]: which of a token's positions turns the plane
    planes: torch.Tensor

    def __init__(self, rotary: Rotary, positions: int) -> None:
        super().__init__()
        frequencies = torch.tensor(rotary.frequencies(), dtype=torch.float32)
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos() * rotary.gain, persistent=False)
        self.register_buffer("sin", angles.sin() * rotary.gain, persistent=False)
        sections = rotary.sections or (rotary.size // 2,)
        axes = [axis for axis, planes in enumerate(sections) for _ in range(planes)]
        self.register_buffer("axes", torch.tensor(axes), persistent=False)
        self.register_buffer("planes", torch.arange(len(axes)), persistent=False)

    def forward(self, positions: torch.Tensor) -> Rotation:
        """[tokens] or [axes, tokens] int64 -> the angles of these positions."""
        if positions.dim() == 1:
            return Rotation(self.cos[positions], self.sin[positions])
        by_plane = positions[self.axes].T
        return Rotation(self.cos[by_plane, self.planes], self.sin[by_plane, self.planes])
