"""The kernel in CUDA C++ for attention to hidden states, on a CPU: its threads take turns."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from cuda_on_cpu import OnCpu, Source, check_attention, compiled

from antiphon.kernels import latent_mma
from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.latent_launch import SHARED_MEMORY, LatentLaunch, MmaTile, has_mma_tile

BF16, F16 = torch.bfloat16, torch.float16
SOURCE = Source(
    ("cuda_on_cpu.h",),
    latent_mma.SOURCES[1:],
    "const uint16_t* q, const uint8_t* states, uint16_t* out, float* partial, float* partial_lse, "
    "int* arrivals, const int* cu_seqlens_q, const int* kv_lens, const int* page_table, "
    "double scale, int q_token, int q_head, int state_page, int state_token, int table_row, "
    "int num_tokens, int heads, int q_blocks, int most_splits, int partial_row",
    "LAST_AT + 4",
)
Attends = Callable[..., LatentLaunch[MmaTile]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_on_cpu")


@pytest.fixture
def attends(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Attends:
    """Checks one batch, and gives its launch."""

    def kernel(*kind: Any) -> OnCpu:
        return OnCpu(compiled(folder, SOURCE, latent_mma.definitions(*kind[:-1])))

    monkeypatch.setattr(latent_mma, "_kernel", kernel)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return partial(check_attention, latent_mma, MmaTile.of)


@pytest.mark.parametrize(
    "case",
    [
        ((20, 256), (BF16, BF16), [1, 3], [300, 5], 16),  # splits, and several blocks of rows
        ((12, 384), (F16, FLOAT8), [1, 1], [33, 64], 1),  # eight warps
        pytest.param(((20, 256), (BF16, FLOAT8), [1, 3], [300, 5], 16), marks=pytest.mark.slow),
        pytest.param(((12, 384), (F16, F16), [1, 1], [33, 64], 1), marks=pytest.mark.slow),
        pytest.param(((5, 256), (F16, FLOAT8), [2], [90], 1), marks=pytest.mark.slow),
    ],
    ids=["bfloat16", "eight warps", "float8", "float16", "float8 of float16"],
)
def test_it_attends(attends: Attends, case: tuple[Any, ...]) -> None:
    attends(*case)


@pytest.mark.slow
@pytest.mark.parametrize("stored", [BF16, FLOAT8])
@pytest.mark.parametrize("sizes", [(20, 1280), (16, 1024), (12, 768), (32, 2048)])
def test_it_attends_to_states_of_published_models(
    attends: Attends, sizes: tuple[int, int], stored: torch.dtype
) -> None:
    assert attends(sizes, (BF16, stored), [1, 2], [140, 31], 64).splits > 1


@pytest.mark.parametrize("width", [384, 512, 768, 1024, 1280, 2048])
@pytest.mark.parametrize("itemsize", [1, 2])
@pytest.mark.parametrize("rows", [1, 6, 20, 32, 33, 160])
def test_a_launch_fits(width: int, itemsize: int, rows: int) -> None:
    assert has_mma_tile(width, itemsize)
    tile = MmaTile.of(rows, width, itemsize)
    assert tile.shared_bytes <= SHARED_MEMORY
    assert tile.stages >= 2
    assert tile.rows % 8 == 0
    assert tile.blocks(rows) * tile.rows >= rows
    # Sums and queries: six registers of each lane for eight rows and sixteen features of a warp,
    # and a multiprocessor has 65,536.
    assert 6 * (tile.rows // 8) * (width // 16) * 32 <= 0.75 * 65536


@pytest.mark.parametrize(("width", "itemsize"), [(80, 2), (200, 2), (8192, 2)])
def test_other_widths_are_left_to_triton(width: int, itemsize: int) -> None:
    assert not has_mma_tile(width, itemsize)


def test_it_is_for_gpus() -> None:
    assert not latent_mma.takes(1280, BF16, None, torch.device("cpu"))


def test_rows_are_shared_evenly() -> None:
    """33 rows of 1280 features do not fit one program's registers, with 24: two of 24."""
    sizes = np.array([MmaTile.of(rows, 1280, 2).rows for rows in (20, 33, 49)])
    assert sizes.tolist() == [24, 24, 24]
