"""Kernels in CUDA C++, compiled for a CPU behind `cuda_on_cpu.h`, and launched as torch does."""

import ctypes
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from attention_cases import PagedCase, paged_spec
from paths import FAKES

from antiphon.kernels import latent_mma
from antiphon.kernels.latent_launch import SHARED_MEMORY, LatentLaunch
from antiphon.kernels.paged_splits import Workspace

CUDA = Path(latent_mma.__file__).parent / "cuda"


@dataclass(frozen=True)
class Source:
    """A kernel's own files behind `fakes`, which give what its headers give. `parameters` as the
    kernel declares them; `end`: where what it lays out in shared memory ends; `change`: of its
    text, what is put in place of what."""

    fakes: tuple[str, ...]
    files: tuple[str, ...]
    parameters: str
    end: str
    change: tuple[str, str] = ("", "")

    def text(self, head: str) -> str:
        names = ", ".join(part.split()[-1] for part in self.parameters.split(", "))
        fakes = "".join((FAKES / name).read_text() for name in self.fakes)
        files = "".join((CUDA / name).read_text() for name in self.files)
        right, wrong = self.change
        assert right in files
        files = files.replace(right, wrong) if right else files
        return f"""{head}{fakes}{files}
extern "C" void launch(int columns, int rows, {self.parameters}) {{
    run_grid(columns, rows, THREADS, [=] {{ latent_attention({names}); }});
}}
extern "C" int shared_bytes() {{ return {self.end}; }}
"""


@cache
def compiled(folder: Path, source: Source, head: str) -> ctypes.CDLL:
    name = folder / f"{abs(hash((source, head)))}"
    written = name.with_suffix(".cc")
    written.write_text(source.text(head))
    options = ("-O1", "-w", "-std=c++17", "-shared", "-fPIC")
    subprocess.run(["g++", *options, "-o", name.with_suffix(".so"), written], check=True)
    return ctypes.CDLL(str(name.with_suffix(".so")))


class OnCpu:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

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


def check_attention(
    kernel: Any,
    tile_of: Any,
    sizes: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype],
    query_lens: list[int],
    kv_lens: list[int],
    programs: int,
) -> LatentLaunch[Any]:
    """One batch by the module `kernel` beside the reference, and its launch. `sizes`: heads, width.
    Splits are as for `programs` multiprocessors."""
    (heads, width), (dtype, stored) = sizes, dtypes
    kv = stored if stored != dtype else None
    spec = paged_spec("latent", heads, width, dtype, page_size=16, kv=kv, kv_heads=1)
    case = PagedCase.make(spec, query_lens, kv_lens, seed=3)
    rows, sequences = heads * max(query_lens), len(kv_lens)
    tile = tile_of(rows, width, stored.itemsize)
    launch = LatentLaunch.choose(tile, sequences, rows, max(kv_lens), programs)
    blocks = sequences * tile.blocks(rows)
    workspace = Workspace.make(launch.splits, heads * len(case.q), blocks, 1, width, spec.device)
    batch = case.batch
    for _ in range(2):  # arrivals are as they were
        out = kernel.latent_attention(
            case.q, case.pool[0].squeeze(2), batch.cu_seqlens_q, batch.kv_lens_on_device,
            batch.page_table_on_device, launch, workspace,
            max_query_len=max(query_lens), scale=spec.scale,
        )  # fmt: skip
        case.check(out, spec)
    assert not workspace.arrivals.any()
    return launch
