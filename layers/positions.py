"""Absolute position tables, and T5's relative position bias."""

import math

import torch
from torch import nn

from antiphon.config.arithmetic import round_up
from antiphon.layers.shard import Span, Spans, as_span


def sinusoids(kind: str, positions: int, size: int, offset: int = 0) -> torch.Tensor:
    """A [positions, size] float32 table: sines in the first half, cosines in the second.

    'sinusoidal': frequencies 10000^(-2i/size) (Vaswani et al. 2017), as in Pegasus and
    Marian. 'fairseq': frequencies 10000^(-i/(size/2 - 1)), as in M2M-100 and NLLB.
    `offset` is the position of the first row.
    """
    half = size // 2
    position = torch.arange(offset, offset + positions, dtype=torch.float64)[:, None]
    if kind == "fairseq":
        step = math.log(10_000) / (half - 1)
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -step)
        angles = (position.float() * frequencies).double()
    else:
        exponents = -2.0 * torch.arange((size + 1) // 2, dtype=torch.float64) / size
        angles = position * torch.pow(10_000.0, exponents)
    table = torch.cat([angles.sin(), angles.cos()[:, : size - angles.shape[1]]], dim=1).float()
    return nn.functional.pad(table, (0, size - table.shape[1]))


class SinusoidTable(nn.Module):
    """Takes the place of a learned `nn.Embedding` of positions: [positions, size].

    The table is computed, since most checkpoints leave it out. A table that a
    checkpoint stores (Pegasus, Marian) is loaded over it, as transformers does.
    `with_zeros` adds a row of zeros, for tokens that have no position.
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
        """[tokens] int64 -> [tokens, size]"""
        return self.weight[rows]


class RelativeBias(nn.Module):
    """T5's relative position bias: a learned number per head and bucket of distances.

    See Raffel et al. 2020, section 2.1. Distances are key position - query position.
    Attention backends either `materialize` the bias and add it to the scores, or read
    `table` or `tiles` inside their own kernel.
    """

    def __init__(
        self, heads: int | Span, buckets: int, max_distance: int, bidirectional: bool
    ) -> None:
        super().__init__()
        self.heads = as_span(heads)
        self.weight = nn.Parameter(torch.empty(buckets, self.heads.count), requires_grad=False)
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional
        self._table: torch.Tensor | None = None
        self._tiles: dict[tuple[int, int], tuple[torch.Tensor, int]] = {}

    @property
    def shares(self) -> dict[str, Spans]:
        return {"weight": (Span.whole(self.buckets), self.heads)}

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """Buckets of distances [...] int64, of the same shape: exact near, logarithmic far."""
        buckets = self.buckets // 2 if self.bidirectional else self.buckets
        past = (distance > 0) * buckets if self.bidirectional else torch.zeros_like(distance)
        far = distance.abs() if self.bidirectional else -distance.clamp(max=0)
        exact = buckets // 2
        scale = (buckets - exact) / math.log(self.max_distance / exact)
        logarithmic = exact + (torch.log(far.clamp(min=1).float() / exact) * scale).long()
        return past + torch.where(far < exact, far, logarithmic.clamp(max=buckets - 1))

    def materialize(self, distance: torch.Tensor) -> torch.Tensor:
        """Distances [sequences, queries, keys] -> bias [sequences, heads, queries, keys]."""
        return self.weight[self.bucket(distance)].permute(0, 3, 1, 2)

    def table(self) -> torch.Tensor:
        """The bias by distance, contiguous float32. Beyond its ends it is constant.

        bidirectional: [heads, 2 * max_distance + 1], at distance + max_distance.
        otherwise: [heads, max_distance + 1], at -distance.
        Made once, since weights don't change.
        """
        if self._table is None:
            reach = torch.arange(self.max_distance + 1, device=self.weight.device)
            distance = torch.cat([-reach.flip(0), reach[1:]]) if self.bidirectional else -reach
            self._table = self.weight[self.bucket(distance)].float().t().contiguous()
        return self._table

    def tiles(self, rows: int, columns: int) -> tuple[torch.Tensor, int]:
        """The bias of any tile of `rows` queries by `columns` keys, as aligned rows of a kernel.

        Returns [heads, rows, 2 * reach + columns], and `reach`. The tile whose first
        key is s positions behind its first query begins at column `reach + s`, with s
        clamped to +-reach: from there on all distances are beyond max_distance.
        Bidirectional only; made once for each size of tile.
        """
        if (rows, columns) not in self._tiles:
            step = max(rows, columns)
            reach = round_up(self.max_distance + step, step)
            column = torch.arange(2 * reach + columns, device=self.weight.device) - reach
            distance = column[None] - torch.arange(rows, device=self.weight.device)[:, None]
            bias = self.weight[self.bucket(distance)].permute(2, 0, 1).contiguous()
            self._tiles[rows, columns] = bias, reach
        return self._tiles[rows, columns]
