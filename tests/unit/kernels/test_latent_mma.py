"""The kernel in CUDA C++ for attention to hidden states, on a CPU: its threads take turns."""

import ctypes
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import PagedCase, paged_spec
from paths import FAKES

pytest.importorskip("triton")

from antiphon.kernels import latent_mma
from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.latent_launch import SHARED_MEMORY, LatentLaunch, MmaTile, has_mma_tile
from antiphon.kernels.paged_splits import Workspace

BF16, F16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32
CUDA = Path(latent_mma.__file__).parent / "cuda"
PARAMETERS = (
    "const uint16_t* q, const uint8_t* states, uint16_t* out, float* partial, float* partial_lse, "
    "int* arrivals, const int* cu_seqlens_q, const int* kv_lens, const int* page_table, "
    "double scale, int q_token, int q_head, int state_page, int state_token, int table_row, "
    "int num_tokens, int heads, int q_blocks, int most_splits, int partial_row"
)
NAMES = ", ".join(part.split()[-1] for part in PARAMETERS.split(", "))
CALLS = f"""
extern "C" void launch(int columns, int rows, {PARAMETERS}) {{
    run_grid(columns, rows, THREADS, [=] {{ latent_attention({NAMES}); }});
}}
extern "C" int shared_bytes() {{ return LAST_AT + 4; }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_on_cpu")


@cache
def compiled(folder: Path, head: str) -> ctypes.CDLL:
    name = folder / f"{abs(hash(head))}"
    source = name.with_suffix(".cc")
    kernel = (CUDA / "latent_attention.cu").read_text()
    source.write_text(head + (FAKES / "cuda_on_cpu.h").read_text() + kernel + CALLS)
    options = ("-O1", "-w", "-std=c++17", "-shared", "-fPIC")
    subprocess.run(["g++", *options, "-o", name.with_suffix(".so"), source], check=True)
    return ctypes.CDLL(str(name.with_suffix(".so")))


class OnCpu:
    """Compiles and launches as torch does on a GPU."""

    def __init__(self, folder: Path, head: str) -> None:
        self._library = compiled(folder, head)

    def __call__(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: list[object],
        shared_mem: int,
    ) -> None:
        assert self._library.shared_bytes() <= shared_mem <= SHARED_MEMORY
        values = [
            ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, torch.Tensor)
            else ctypes.c_double(arg) if isinstance(arg, float)
            else ctypes.c_int(arg)  # type: ignore[call-overload]
            for arg in args
        ]  # fmt: skip
        self._library.launch(*grid[:2], *values)


Attends = Callable[..., LatentLaunch[MmaTile]]


@pytest.fixture
def attends(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Attends:
    """Checks one batch, and gives its launch."""
    monkeypatch.setattr(
        latent_mma, "_kernel", lambda *kind: OnCpu(folder, latent_mma.definitions(*kind[:-1]))
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def check(
        sizes: tuple[int, int],
        dtypes: tuple[torch.dtype, torch.dtype],
        query_lens: list[int],
        kv_lens: list[int],
        programs: int,
    ) -> LatentLaunch[MmaTile]:
        """`sizes`: heads, width. Splits are as for `programs` multiprocessors."""
        (heads, width), (dtype, stored) = sizes, dtypes
        kv = stored if stored != dtype else None
        spec = paged_spec("latent", heads, width, dtype, page_size=16, kv=kv, kv_heads=1)
        case = PagedCase.make(spec, query_lens, kv_lens, seed=3)
        rows, sequences = heads * max(query_lens), len(kv_lens)
        tile = MmaTile.of(rows, width, stored.itemsize)
        launch = LatentLaunch.choose(tile, sequences, rows, max(kv_lens), programs)
        blocks = sequences * tile.blocks(rows)
        workspace = Workspace.make(
            launch.splits, heads * len(case.q), blocks, 1, width, spec.device
        )
        batch = case.batch
        for _ in range(2):  # arrivals are as they were
            out = latent_mma.latent_attention(
                case.q, case.pool[0].squeeze(2), batch.cu_seqlens_q, batch.kv_lens_on_device,
                batch.page_table_on_device, launch, workspace,
                max_query_len=max(query_lens), scale=spec.scale,
            )  # fmt: skip
            case.check(out, spec)
        assert not workspace.arrivals.any()
        return launch

    return check


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
