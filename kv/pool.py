"""The tensors behind the page ids: keys and values of every layer. A page id spans all layers."""

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import torch

from antiphon.kv.queries import QueryPages
from antiphon.kv.state_pages import StatePages
from antiphon.kv.zeros import zeros
from antiphon.layers.kv_destination import KVDestination
from antiphon.runtime.device import to_device, together_to_device

MOST_COPIED = 128  # pages, by one kernel on a GPU
_WIDTHS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class KVPool:
    """`layers[i]` is [2, pages, page_size, kv_heads, head_dim]: keys and values of layer i.

    Self and cross keys share the pages. `queries`: those of some heads, where they are kept.
    `states`: what cross-attention reads in place of cross keys and values, where it does.
    """

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.page_size, self.num_pages, self.dtype = page_size, num_pages, dtype
        self.scratch_page = num_pages  # of no sequence: the padding of graphs writes here
        shape = (2, num_pages + 1, page_size, num_kv_heads, head_dim)
        self.layers = [zeros(shape, dtype, device) for _ in range(num_layers)]
        self.queries: QueryPages | None = None
        self.states: StatePages | None = None

    @property
    def num_state_pages(self) -> int:
        """Of hidden states; 0 where cross-attention reads keys and values."""
        return 0 if self.states is None else self.states.num_pages

    @property
    def cross_scratch_page(self) -> int:
        """As `scratch_page`, among the pages that cross-attention reads."""
        return self.scratch_page if self.states is None else self.states.scratch_page

    @staticmethod
    def bytes_per_page(
        num_layers: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return 2 * num_layers * page_size * num_kv_heads * head_dim * dtype.itemsize

    def last_layers(self, count: int) -> "KVPool":
        """A pool of the last `count` layers alone, in the same memory: number 0 is the first of
        them. It keeps no queries; `states` are the same."""
        pool = copy(self)
        pool.layers, pool.queries = self.layers[len(self.layers) - count :], None
        return pool

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer, both [pages, page_size, kv_heads, head_dim]."""
        return self.layers[layer][0], self.layers[layer][1]

    def destination(self, layer: int, slot_mapping: torch.Tensor) -> KVDestination:
        """Where one layer's keys and values of some tokens go.

        `slot_mapping` [tokens] int32 = page * page_size + offset in the page.
        """
        k_pages, v_pages = self.layers[layer].flatten(1, 2)
        return KVDestination(k_pages, v_pages, slot_mapping)

    def write(
        self, layer: int, slot_mapping: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Writes `k`, `v` [tokens, kv_heads, head_dim] at `slot_mapping` [tokens] of one layer."""
        self.destination(layer, slot_mapping).write(k, v)

    def keeps_queries_of(self, layer: int) -> bool:
        return self.queries is not None and layer in self.queries.heads

    def keep_queries(self, slot_mapping: torch.Tensor, queries: Mapping[int, torch.Tensor]) -> None:
        """Keeps what is wanted of the cross `queries` [tokens, heads, head_dim], by layer, of all
        layers of `keeps_queries_of`; nothing in most models."""
        if self.queries is not None:
            self.queries.write(slot_mapping, queries)

    def warm_up(self) -> None:
        """Loads what a device loads at first use."""
        scratch = np.array([self.scratch_page])
        self.copy_pages(scratch, scratch)

    def copy_pages(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copies pages `sources` [n] to `targets` [n], in all layers. What is copied is
        what was there before, also where a page is among both."""
        if len(sources) > MOST_COPIED and not np.isin(targets, sources).any():
            for first in range(0, len(sources), MOST_COPIED):
                some = slice(first, first + MOST_COPIED)
                self.copy_pages(sources[some], targets[some])
            return
        pages = [sources.astype(np.int64), targets.astype(np.int64)]
        # Keys and values of a layer are rows of one matrix.
        both = [np.concatenate([rows, rows + self.num_pages + 1]) for rows in pages]
        source, target = together_to_device(both, self.layers[0].device)
        _copy_rows([layer.flatten(0, 1) for layer in self.layers], source, target)
        if self.queries is not None:
            count = len(sources)
            _copy_rows([self.queries.pages], source[:count], target[:count])


def _copy_rows(
    matrices: Sequence[torch.Tensor], sources: torch.Tensor, targets: torch.Tensor
) -> None:
    """Rows `sources` [n] of `matrices` [rows, ...], which are contiguous and equally large, to
    `targets` [n]."""
    first = matrices[0].flatten(1)
    row_bytes = first.shape[1] * first.itemsize
    if first.device.type == "cuda" and row_bytes % 4 == 0:
        from antiphon.kernels import page_copy  # Triton is there where CUDA is

        if len(sources) <= page_copy.MOST:
            addresses = np.array([matrix.data_ptr() for matrix in matrices])
            page_copy.copy_pages(to_device(addresses, first.device), sources, targets, row_bytes)
            return
    for matrix in matrices:
        _copy_rows_of(matrix, sources, targets)


def _copy_rows_of(matrix: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Rows `sources` [n] of `matrix` [rows, ...], which is contiguous, to `targets` [n]: as the
    widest numbers that a row is made of, since devices copy number by number."""
    raw = matrix.flatten(1).view(torch.uint8)
    wide = next(dtype for dtype in _WIDTHS if raw.shape[1] % dtype.itemsize == 0)
    numbers = raw.view(wide)
    numbers.index_copy_(0, targets, numbers.index_select(0, sources))
