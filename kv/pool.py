"""The tensors behind the page ids: keys and values of every layer. A page id spans all layers."""

import math

import numpy as np
import torch

from antiphon.layers.linear import Features, StackedLinear


class KVPool:
    """`layers[i]` is [2, pages, page_size, heads, head_dim]: keys and values of layer i, self and cross alike."""

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.page_size, self.num_pages, self.dtype = page_size, num_pages, dtype
        self.scratch_page = num_pages  # belongs to nobody: what a graph's padding writes
        shape = (2, num_pages + 1, page_size, num_heads, head_dim)
        self.layers = [_zeros(shape, dtype, device) for _ in range(num_layers)]

    @staticmethod
    def bytes_per_page(
        num_layers: int, page_size: int, num_heads: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return 2 * num_layers * page_size * num_heads * head_dim * dtype.itemsize

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer, each [pages, page_size, heads, head_dim]."""
        return self.layers[layer][0], self.layers[layer][1]

    def project(
        self, layer: int, slot_mapping: torch.Tensor, qkv: StackedLinear, x: Features
    ) -> torch.Tensor:
        """Queries [tokens, heads, head_dim] of `x` [tokens, hidden]; keys and values are written at `slot_mapping` [tokens]."""
        heads = self.layers[layer].shape[-2:]
        if qkv.fuses(x):
            return qkv.queries(x, (*self.layers[layer].flatten(1, 2), slot_mapping)).unflatten(
                -1, heads
            )
        q, k, v = (part.unflatten(-1, heads) for part in qkv.split(x))
        self.write(layer, slot_mapping, k, v)
        return q

    def write(
        self, layer: int, slot_mapping: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Writes `k`, `v` [tokens, heads, head_dim] at `slot_mapping` [tokens] int32 = page * page_size + offset in the page.

        A float8 pool saturates: what is beyond its largest number becomes that.
        """
        k_pool, v_pool = self.layers[layer].flatten(1, 2)
        if k.device.type == "cuda":
            from antiphon.kernels.page_write import write_pages  # Triton is there where CUDA is

            return write_pages(k, v, k_pool, v_pool, slot_mapping)
        for pool, new in ((k_pool, k), (v_pool, v)):
            if self.dtype.itemsize == 1:
                largest = torch.finfo(self.dtype).max
                pool.view(torch.uint8)[slot_mapping] = (
                    new.clamp(-largest, largest).to(self.dtype).view(torch.uint8)
                )
            else:
                pool.index_copy_(0, slot_mapping.long(), new.to(self.dtype))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, because a masked key still meets its value, and zero times NaN is NaN. On a CPU they come from calloc: a page
    costs memory once it is written, so a roomy pool is cheap."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return (
        torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8))
        .view(dtype)
        .view(shape)
    )
