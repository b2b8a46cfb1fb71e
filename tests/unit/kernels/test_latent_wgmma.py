"""The kernel by warpgroups for attention to hidden states, on a CPU: its products read a shared
memory of their own, through their descriptors."""

from collections.abc import Callable
from ctypes import CDLL
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from cuda_on_cpu import OnCpu, Source, check_attention, compiled

from antiphon.kernels import latent_wgmma
from antiphon.kernels.latent_launch import SHARED_MEMORY, LatentLaunch, WgmmaTile, has_wgmma_tile

BF16, F16 = torch.bfloat16, torch.float16
SOURCE = Source(
    ("cuda_on_cpu.h", "hopper_on_cpu.h"),
    latent_wgmma.SOURCES[2:],
    "const uint16_t* q, const void* states, uint16_t* out, float* partial, float* partial_lse, "
    "int* arrivals, const int* cu_seqlens_q, const int* kv_lens, const int* page_table, "
    "double scale, int q_token, int q_head, int table_row, int num_tokens, int heads, "
    "int q_blocks, int most_splits, int partial_row",
    "SECOND_AT + 4",
)
Attends = Callable[..., LatentLaunch[WgmmaTile]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hopper_on_cpu")


@pytest.fixture
def attends(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Attends:
    """Checks one batch, and gives its launch."""

    def kernel(*kind: Any) -> OnCpu:
        library = compiled(folder, SOURCE, latent_wgmma.definitions(*kind[:-1]))
        return _with_driver(library, monkeypatch)

    monkeypatch.setattr(latent_wgmma, "_kernel", kernel)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return partial(check_attention, latent_wgmma, WgmmaTile.of)


def _with_driver(library: CDLL, monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    """The driver's function for tensor maps is in the library too."""
    monkeypatch.setattr(latent_wgmma, "_driver", lambda: library)
    return OnCpu(library)


SPLITS_AND_BLOCKS = ((20, 128), (BF16, BF16), [1, 2], [300, 5], 16)


@pytest.mark.parametrize(
    "case",
    [
        SPLITS_AND_BLOCKS,
        pytest.param(((12, 384), (F16, F16), [1, 1], [33, 129], 1), marks=pytest.mark.slow),
        pytest.param(((3, 256), (F16, F16), [1], [700], 16), marks=pytest.mark.slow),
    ],
    ids=["bfloat16", "float16", "pairs of many splits"],
)
def test_it_attends(attends: Attends, case: tuple[Any, ...]) -> None:
    attends(*case)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(20, 1280), (16, 1024), (12, 768)])
def test_it_attends_to_states_of_published_models(attends: Attends, sizes: tuple[int, int]) -> None:
    assert attends(sizes, (BF16, BF16), [1, 2], [140, 31], 64).splits > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("chunk + 128 * k", "chunk + 2 * k"),
        ("1u << 30 | 1024 >> 4", "1u << 30 | 512 >> 4"),
        ("(eight ^ row % 8) * 16", "eight * 16"),
        ("            written_for_products();\n            arrive", "            arrive"),
        ("wait_for_products<1>()", "wait_for_products<2>()"),
    ],
    ids=["a descriptor", "its strides", "the swizzle", "no fence", "fetched too early"],
)
def test_a_mistake_shows(
    attends: Attends, folder: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    """What would be wrong on a GPU alone is wrong here, so that the tests above say something."""
    source = replace(SOURCE, change=(right, wrong))

    def kernel(*kind: Any) -> OnCpu:
        library = compiled(folder, source, latent_wgmma.definitions(*kind[:-1]))
        return _with_driver(library, monkeypatch)

    monkeypatch.setattr(latent_wgmma, "_kernel", kernel)
    with pytest.raises(AssertionError):
        attends((5, 512), (BF16, BF16), [1], [640], 1)


@pytest.mark.parametrize("width", [128, 384, 512, 768, 1024, 1280])
@pytest.mark.parametrize("rows", [1, 6, 16, 20, 33, 160])
def test_a_launch_fits(width: int, rows: int) -> None:
    assert has_wgmma_tile(width, 2)
    tile = WgmmaTile.of(rows, width, 2)
    assert tile.shared_bytes <= SHARED_MEMORY
    assert tile.slots * 64 >= width
    assert tile.blocks(rows) * tile.rows >= rows
    # Sums of a warpgroup's chunks: half of the 168 registers that a thread of 384 has, or more.
    assert width // 64 // 2 * tile.rows // 2 <= 120


@pytest.mark.parametrize(("width", "itemsize"), [(64, 2), (192, 2), (200, 2), (2048, 2), (1280, 1)])
def test_other_states_are_left_to_other_kernels(width: int, itemsize: int) -> None:
    assert not has_wgmma_tile(width, itemsize)


def test_cpus_have_no_warpgroups() -> None:
    assert not latent_wgmma.takes(1280, BF16, None, 16, torch.device("cpu"))
