"""Absolute position tables and T5's relative position bias."""

import math

import torch
from torch import nn

from antiphon.config.arithmetic import round_up


def sinusoids(kind: str, positions: int, size: int, offset: int = 0) -> torch.Tensor:
    """A [positions, size] float32 table of sines (first half) and cosines (second half).

    'sinusoidal': frequencies 10000^(-2i/size) (Vaswani et al. 2017), as Pegasus and Marian use them.
    'fairseq': frequencies 10000^(-i/(size/2 - 1)), as M2M-100 and NLLB use them. `offset` is the first row's position.
    """
    half = size // 2
    at = torch.arange(offset, offset + positions, dtype=torch.float64)[:, None]
    if kind == "fairseq":
        step = math.log(10_000) / (half - 1)
        angles = (at.float() * torch.exp(torch.arange(half, dtype=torch.float32) * -step)).double()
    else:
        angles = at * torch.pow(
            10_000.0, -2.0 * torch.arange((size + 1) // 2, dtype=torch.float64) / size
        )
    table = torch.cat([angles.sin(), angles.cos()[:, : size - angles.shape[1]]], dim=1).float()
    return nn.functional.pad(table, (0, size - table.shape[1]))


class SinusoidTable(nn.Module):
    """Stands where a learned `nn.Embedding` of positions would; computed, since most checkpoints leave it out.

    Where one stores a table (Pegasus, Marian), the loader puts that in its place, as transformers does.
    `with_zeros`: one more row, of zeros, for tokens that have no position.
    """

    def __init__(
        self, kind: str, positions: int, size: int, offset: int, with_zeros: bool = False
    ) -> None:
        super().__init__()
        self.weight: torch.Tensor
        table = sinusoids(kind, positions, size, offset)
        if with_zeros:
            table = nn.functional.pad(table, (0, 0, 0, 1))
        self.register_buffer("weight", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.weight[rows]


class RelativeBias(nn.Module):
    """T5's relative position bias: a learned number per head and bucket of distance (Raffel et al. 2020, section 2.1).

    Backends ask for it in one of two ways: `materialise` the additive bias, or read the `table` inside their own kernel.
    """

    def __init__(
        self, num_heads: int, buckets: int, max_distance: int, bidirectional: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(buckets, num_heads), requires_grad=False)
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional
        self._table: torch.Tensor | None = None
        self._tiles: dict[tuple[int, int], tuple[torch.Tensor, int]] = {}

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """Buckets of `distance` = key position - query position, any shape: exact when near, logarithmic when far."""
        buckets = self.buckets // 2 if self.bidirectional else self.buckets
        past = (distance > 0) * buckets if self.bidirectional else torch.zeros_like(distance)
        far = distance.abs() if self.bidirectional else -distance.clamp(max=0)
        exact = buckets // 2
        scale = (buckets - exact) / math.log(self.max_distance / exact)
        logarithmic = exact + (torch.log(far.clamp(min=1).float() / exact) * scale).long()
        return past + torch.where(far < exact, far, logarithmic.clamp(max=buckets - 1))

    def materialise(self, distance: torch.Tensor) -> torch.Tensor:
        """[sequences, queries, keys] distances -> [sequences, heads, queries, keys]."""
        return self.weight[self.bucket(distance)].permute(0, 3, 1, 2)

    def table(self) -> torch.Tensor:
        """The bias by distance, contiguous float32; made once, since weights don't change. Beyond its ends it is constant.

        bidirectional: [heads, 2 * max_distance + 1], at key position - query position + max_distance.
        otherwise: [heads, max_distance + 1], at query position - key position.
        """
        if self._table is None:
            reach = torch.arange(self.max_distance + 1, device=self.weight.device)
            distance = torch.cat([-reach.flip(0), reach[1:]]) if self.bidirectional else -reach
            self._table = self.weight[self.bucket(distance)].float().t().contiguous()
        return self._table

    def tiles(self, rows: int, columns: int) -> tuple[torch.Tensor, int]:
        """The bias of any tile of queries by keys, as a kernel reads it: along rows, aligned. Made once for a tile's size.

        [heads, rows, 2 * reach + columns] and reach: the tile whose first key is s behind its first query begins at column
        `reach + s`, s clamped to +-reach, where all distances are beyond max_distance. Bidirectional only.
        """
        if (rows, columns) not in self._tiles:
            step = max(rows, columns)
            reach = round_up(self.max_distance + step, step)
            at = torch.arange(2 * reach + columns, device=self.weight.device) - reach
            distance = at[None] - torch.arange(rows, device=self.weight.device)[:, None]
            self._tiles[rows, columns] = (
                self.weight[self.bucket(distance)].permute(2, 0, 1).contiguous(),
                reach,
            )
        return self._tiles[rows, columns]
