"""Pages of a pool are copied whole in all layers, as they were before, whatever a row's width."""

import numpy as np
import pytest
import torch

from antiphon.kv.pool import KVPool
from antiphon.kv.queries import QueryPages

CPU = torch.device("cpu")
SOURCES, TARGETS = np.array([4, 1, 2], np.int32), np.array([1, 0, 7], np.int32)


@pytest.mark.parametrize(
    ("dtype", "head_dim"),
    [
        (torch.float32, 8),
        (torch.bfloat16, 2),
        (torch.bfloat16, 1),
        (torch.float8_e4m3fn, 2),
        (torch.float8_e4m3fn, 1),
    ],
)
def test_pages_are_copied_as_they_were(dtype: torch.dtype, head_dim: int) -> None:
    pool = KVPool(2, 9, 3, 1, head_dim, dtype, CPU)
    pool.queries = QueryPages({1: [0, 1]}, 2, (10, 3, head_dim), dtype, CPU)
    everything = [*(pages for layer in pool.layers for pages in layer), pool.queries.pages]
    before = []
    for number, pages in enumerate(everything):
        raw = pages.view(torch.uint8)
        raw.copy_(torch.arange(raw.numel()).add(number).remainder(101).view(raw.shape))
        before.append(raw.clone())
    pool.copy_pages(SOURCES, TARGETS)
    for pages, raw in zip(everything, before, strict=True):
        wanted = raw.clone()
        wanted[TARGETS] = raw[SOURCES]
        assert torch.equal(pages.view(torch.uint8), wanted)
