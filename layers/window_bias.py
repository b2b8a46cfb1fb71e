"""A learned bias of attention within windows of an image, by rows and columns between two tokens
(Swin, Liu et al. 2021)."""

import torch
from torch import nn

from antiphon.layers.shard import Heads, Span, Spans

Cut = tuple[int, int]  # the first row and the first column of a window's second part; 0: no cut


class WindowBias(nn.Module):
    """Of windows of `size` by `size` tokens: `weight` [(2 size - 1)^2, heads].

    A window may be cut by a row, a column or both into parts that do not see each other: it then
    holds tokens from opposite edges of the image.
    """

    def __init__(self, size: int, heads: Heads) -> None:
        super().__init__()
        self.size, self.heads = size, heads.queries
        rows = (2 * size - 1) ** 2
        self.weight = nn.Parameter(torch.zeros(rows, self.heads.count), requires_grad=False)
        self._made: dict[Cut, torch.Tensor] = {}

    @property
    def shares(self) -> dict[str, Spans]:
        return {"weight": (Span.whole(len(self.weight)), self.heads)}

    def forward(self, cut: Cut) -> torch.Tensor:
        """[1, heads, size * size, size * size]; minus infinity between parts. Made once."""
        if cut not in self._made:
            place = torch.arange(self.size, device=self.weight.device)
            row, column = (part.flatten() for part in torch.meshgrid(place, place, indexing="ij"))
            down, right = (part[:, None] - part for part in (row, column))
            number = (down + self.size - 1) * (2 * self.size - 1) + right + self.size - 1
            bias = self.weight[number].permute(2, 0, 1)[None]
            region = (row >= (cut[0] or self.size)) * 2 + (column >= (cut[1] or self.size))
            apart = region[:, None] != region
            self._made[cut] = bias.masked_fill(apart, float("-inf")).contiguous()
        return self._made[cut]
