"""Learned biases of attention by rows and columns between two tokens of an image: within windows
(Swin, Liu et al. 2021), or of all its patches (BEiT, Bao et al. 2021)."""

import torch
from torch import nn

from antiphon.layers.shard import Heads, Span, Spans

Cut = tuple[int, int]  # the first row and the first column of a window's second part; 0: no cut


def relative_places(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Of a grid's tokens, line by line [tokens, tokens] int64: a number for each distance from the
    second to the first, below (2 rows - 1) (2 columns - 1)."""
    sides = (torch.arange(side, device=device) for side in (rows, columns))
    row, column = (place.flatten() for place in torch.meshgrid(*sides, indexing="ij"))
    down, right = (place[:, None] - place for place in (row, column))
    return (down + rows - 1) * (2 * columns - 1) + right + columns - 1


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
            numbers = relative_places(self.size, self.size, self.weight.device)
            bias = self.weight[numbers].permute(2, 0, 1)[None]
            region = (row >= (cut[0] or self.size)) * 2 + (column >= (cut[1] or self.size))
            apart = region[:, None] != region
            self._made[cut] = bias.masked_fill(apart, float("-inf")).contiguous()
        return self._made[cut]


class ImageBias(nn.Module):
    """Of an image's class token and its `rows` by `columns` patches. `weight`
    [(2 rows - 1) (2 columns - 1) + 3, heads]: by distance; the last three are between the class
    token and a patch, a patch and it, and it and itself."""

    def __init__(self, rows: int, columns: int, heads: Heads) -> None:
        super().__init__()
        self.rows, self.columns, self.heads = rows, columns, heads.queries
        numbers = (2 * rows - 1) * (2 * columns - 1) + 3
        self.weight = nn.Parameter(torch.zeros(numbers, self.heads.count), requires_grad=False)
        self._made: torch.Tensor | None = None

    @property
    def shares(self) -> dict[str, Spans]:
        return {"weight": (Span.whole(len(self.weight)), self.heads)}

    def forward(self) -> torch.Tensor:
        """[1, heads, 1 + patches, 1 + patches]. Made once."""
        if self._made is None:
            places = relative_places(self.rows, self.columns, self.weight.device)
            numbers = torch.nn.functional.pad(places, (1, 0, 1, 0))
            count = len(self.weight)
            numbers[0], numbers[:, 0], numbers[0, 0] = count - 3, count - 2, count - 1
            self._made = self.weight[numbers].permute(2, 0, 1)[None].contiguous()
        return self._made
