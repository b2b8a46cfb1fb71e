"""Pages of a pool are copied whole in all layers, as they were before, whatever a row's width."""

import numpy as np
import pytest
import torch
from kernel_checks import check_copied_pages

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
    check_copied_pages(dtype, head_dim, CPU, SOURCES, TARGETS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
def test_the_kernel_copies_them_likewise() -> None:
    """In Triton's interpreter: rows of more words than a program has, in two matrices."""
    page_copy = pytest.importorskip("antiphon.kernels.page_copy")
    matrices = torch.arange(2 * 9 * 70, dtype=torch.int32).view(2, 9, 70)
    wanted = matrices.clone()
    wanted[:, TARGETS] = matrices[:, SOURCES]
    addresses = torch.tensor([matrix.data_ptr() for matrix in matrices])
    rows = (torch.from_numpy(pages).long() for pages in (SOURCES, TARGETS))
    page_copy.copy_pages(addresses, *rows, 4 * 70)
    assert torch.equal(matrices, wanted)
