"""Cross-attention on an encoder's hidden states by products of warpgroups, for Hopper GPUs.

What `latent_mma.py` computes, for states of half precision. There the time goes into reading tiles
from shared memory into registers; these products (wgmma) take both of their sides from shared
memory, where a tile lies as its tensor map brings it. See `cuda/latent_wgmma.cu`.
"""

import ctypes
from functools import cache
from typing import Any

import torch

from antiphon.kernels import latent_mma
from antiphon.kernels.latent_launch import (
    CHUNK,
    LatentLaunch,
    WgmmaTile,
    has_wgmma_tile,
    wgmma_row_sizes,
)
from antiphon.kernels.paged_splits import Workspace

SOURCES = ("ptx.cuh", "hopper.cuh", "latent_splits.cuh", "latent_pairs.cuh", "latent_wgmma.cu")
ARCHITECTURE = "90a"  # wgmma is of these GPUs alone
PAGE_SIZES = (8, 16, 32, 64)

# Of cuda.h (CUtensorMap): 128 bytes, and where they are written.
MAP_BYTES, MAP_ALIGNMENT = 128, 64
FLOAT16, BFLOAT16 = 6, 9
NOT_INTERLEAVED, SWIZZLE_128_BYTES, PROMOTE_256_BYTES, NO_FILL = 0, 3, 3, 0


def takes(
    width: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype | None,
    page_size: int,
    device: torch.device,
) -> bool:
    """Whether the kernel computes states of `kv_dtype` (by default `dtype`) here."""
    return (
        latent_mma.takes(width, dtype, kv_dtype, device)
        and torch.cuda.get_device_capability(device) == latent_mma.CAPABILITY
        and page_size in PAGE_SIZES
        and has_wgmma_tile(width, (kv_dtype or dtype).itemsize)
    )


def definitions(tile: WgmmaTile, page_size: int, dtype: torch.dtype) -> str:
    """The head of the source: what the kernel is compiled for."""
    common = latent_mma.definitions(tile, page_size, dtype, dtype)
    return f"{common}#define SLOTS {tile.slots}\n"


def compile_all(heads: int, width: int, page_size: int, dtype: torch.dtype) -> None:
    """Compiles, on the current device, what launches of `heads` rows a query and more need."""
    for rows in wgmma_row_sizes(heads):
        tile = WgmmaTile.of(rows, width, dtype.itemsize)
        _kernel(tile, page_size, dtype, torch.cuda.current_device())


@cache
def _kernel(tile: WgmmaTile, page_size: int, dtype: torch.dtype, device: int) -> Any:
    """Compiled for the device `device`, which is the current one."""
    head = definitions(tile, page_size, dtype)
    return latent_mma.compiled(head, SOURCES, tile.shared_bytes, ARCHITECTURE)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@cache
def _tensor_map(
    address: int,
    shape: tuple[int, int, int],
    strides: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Of pages [pages, page_size, width], whose boxes are CHUNK features of a page: on the device,
    where it is read as long as there is a graph that may. `strides`, in elements, of the first
    two."""
    pages, page_size, width = shape
    room = torch.empty(MAP_BYTES + MAP_ALIGNMENT, dtype=torch.uint8)
    begin = -room.data_ptr() % MAP_ALIGNMENT
    host = room[begin : begin + MAP_BYTES]
    sizes = (ctypes.c_uint64 * 3)(width, page_size, pages)
    bytes_apart = (ctypes.c_uint64 * 2)(*(stride * dtype.itemsize for stride in reversed(strides)))
    error = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(host.data_ptr()), BFLOAT16 if dtype == torch.bfloat16 else FLOAT16, 3,
        ctypes.c_void_p(address), sizes, bytes_apart, (ctypes.c_uint32 * 3)(CHUNK, page_size, 1),
        (ctypes.c_uint32 * 3)(1, 1, 1), NOT_INTERLEAVED, SWIZZLE_128_BYTES, PROMOTE_256_BYTES,
        NO_FILL,
    )  # fmt: skip
    if error:
        raise RuntimeError(
            f"no tensor map of pages {shape} with strides {strides} (CUDA error {error})"
        )
    return host.to(device)


def latent_attention(
    q: torch.Tensor,
    states: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    kv_lens: torch.Tensor,
    page_table: torch.Tensor,
    launch: LatentLaunch[WgmmaTile],
    workspace: Workspace,
    *,
    max_query_len: int,
    scale: float,
) -> torch.Tensor:
    """As that of `latent_mma.py`. The first call with `states` copies from the host, so it is none
    of a graph's."""
    (num_tokens, heads, _), tile = q.shape, launch.tile
    assert q.data_ptr() % 16 == 0, "queries are read sixteen bytes at a time"
    assert all(stride % 8 == 0 for stride in q.stride()[:2])
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    q_blocks = tile.blocks(max_query_len * heads)
    kernel = _kernel(tile, states.shape[1], q.dtype, torch.cuda.current_device())
    tensor_map = _tensor_map(
        states.data_ptr(), tuple(states.shape), states.stride()[:2], states.dtype, states.device
    )
    kernel(
        grid=(len(kv_lens) * q_blocks, launch.splits, 1),
        block=(32 * tile.warps, 1, 1),
        args=[
            q, tensor_map, out, workspace.partial, workspace.lse, workspace.arrivals, cu_seqlens_q,
            kv_lens, page_table, float(scale), q.stride(0), q.stride(1), page_table.stride(0),
            num_tokens, heads, q_blocks, launch.splits, tile.features,
        ],
        shared_mem=tile.shared_bytes,
    )  # fmt: skip
    return out
