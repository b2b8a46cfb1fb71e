"""Cross-attention on an encoder's hidden states in CUDA C++, for Hopper GPUs and later.

Triton gives a program's warps either rows or tokens of a product. Here they share the features: a
tile is read from shared memory once for the scores and once for the sums, queries stay in
registers, and rows, which are few, are the side of which the tensor cores take eight. See
`cuda/latent_attention.cu`; torch compiles it (NVRTC) before the first step.
"""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.latent_launch import (
    SHARED_MEMORY,
    LatentLaunch,
    MmaTile,
    WgmmaTile,
    has_mma_tile,
    row_sizes,
)
from antiphon.kernels.paged_launch import LEAST_KEYS
from antiphon.kernels.paged_splits import Workspace

logger = logging.getLogger(__name__)

CAPABILITY = (9, 0)
SOURCES = ("ptx.cuh", "latent_splits.cuh", "latent_attention.cu")
HALF = (torch.float16, torch.bfloat16)


def takes(
    width: int, dtype: torch.dtype, kv_dtype: torch.dtype | None, device: torch.device
) -> bool:
    """Whether the kernel computes states of `kv_dtype` (by default `dtype`) here."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= CAPABILITY
        and dtype in HALF
        and kv_dtype in (None, dtype, FLOAT8)
        and has_mma_tile(width, (kv_dtype or dtype).itemsize)
        and _shared_memory(device) >= SHARED_MEMORY
        and _compiles()
    )


def definitions(
    tile: MmaTile | WgmmaTile, page_size: int, dtype: torch.dtype, state_dtype: torch.dtype
) -> str:
    """The head of the source: what the kernel is compiled for."""
    values = {
        "WARPS": tile.warps,
        "WIDTH": tile.features,
        "ROWS": tile.rows,
        "TOKENS": tile.tokens,
        "STAGES": tile.stages,
        "PAGE": page_size,
        "LEAST_TOKENS": LEAST_KEYS,
        "FLOAT8": int(state_dtype == FLOAT8),
        "BF16": int(dtype == torch.bfloat16),
    }
    return "".join(f"#define {name} {value}\n" for name, value in values.items())


def _shared_memory(device: torch.device) -> int:
    """Bytes that a program may have."""
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 0))


@cache
def _compiles() -> bool:
    """Whether torch finds what compiles CUDA C++: it asks for CUDA's folder, also where none of
    its files is read. (Its function for this is not public.)"""
    try:
        torch.cuda._compile_kernel('extern "C" __global__ void nothing() {}', "nothing")
    except (AttributeError, OSError, RuntimeError) as error:
        logger.warning(
            "attention to hidden states by Triton's kernel, as CUDA C++ cannot be compiled here "
            "(%s). Where the toolkit is installed, CUDA_HOME says so",
            error,
        )
        return False
    return True


def compile_all(
    heads: int, width: int, page_size: int, dtype: torch.dtype, state_dtype: torch.dtype
) -> None:
    """Compiles, on the current device, what launches of `heads` rows a query and more need."""
    for rows in row_sizes(heads, width):
        tile = MmaTile.of(rows, width, state_dtype.itemsize)
        _kernel(tile, page_size, dtype, state_dtype, torch.cuda.current_device())


@cache
def _kernel(
    tile: MmaTile, page_size: int, dtype: torch.dtype, state_dtype: torch.dtype, device: int
) -> Any:
    """Compiled for the device `device`, which is the current one."""
    return compiled(definitions(tile, page_size, dtype, state_dtype), SOURCES, tile.shared_bytes)


def compiled(
    head: str, sources: Sequence[str], shared_bytes: int, architecture: str | None = None
) -> Any:
    """The kernel of these `sources`, files of `cuda/`, behind their `head`; for the current device,
    or for an `architecture` of its kind. `shared_bytes`: that a program may have."""
    folder = Path(__file__).parent / "cuda"
    source = head + "".join((folder / name).read_text() for name in sources)
    kernel = torch.cuda._compile_kernel(source, "latent_attention", compute_capability=architecture)
    kernel.set_shared_memory_config(shared_bytes)
    return kernel


def latent_attention(
    q: torch.Tensor,
    states: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    kv_lens: torch.Tensor,
    page_table: torch.Tensor,
    launch: LatentLaunch[MmaTile],
    workspace: Workspace,
    *,
    max_query_len: int,
    scale: float,
) -> torch.Tensor:
    """As the Triton kernel of this name; `workspace` is as wide as the tile's features."""
    (num_tokens, heads, _), tile = q.shape, launch.tile
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    q_blocks = tile.blocks(max_query_len * heads)
    device = torch.cuda.current_device()
    kernel = _kernel(tile, states.shape[1], q.dtype, states.dtype, device)
    kernel(
        grid=(len(kv_lens) * q_blocks, launch.splits, 1),
        block=(32 * tile.warps, 1, 1),
        args=[
            q, states, out, workspace.partial, workspace.lse, workspace.arrivals, cu_seqlens_q,
            kv_lens, page_table, float(scale), q.stride(0), q.stride(1), states.stride(0),
            states.stride(1), page_table.stride(0), num_tokens, heads, q_blocks, launch.splits,
            tile.features,
        ],
        shared_mem=tile.shared_bytes,
    )  # fmt: skip
    return out
