"""Triton kernel that writes keys and values into their pages, as float8 if the pages are."""

import torch
import triton
import triton.language as tl

from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.norms import as_page_type, row_parts


@triton.jit
def _write_kernel(
    k, v, k_pool, v_pool, slot_mapping, k_token, v_token, width,
    FIRST: tl.constexpr, REST: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """A program moves one token's keys and values, as rows of two parts (see `norms.py`).

    It reads all before it writes any, so that their ways through memory overlap.
    """
    wait_for_previous(OVERLAP)
    token = tl.program_id(0).to(tl.int64)
    k, v = k + token * k_token, v + token * v_token
    offset = tl.load(slot_mapping + token).to(tl.int64) * width
    a, b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    inside = b < width
    key_a, key_b = tl.load(k + a), tl.load(k + b, mask=inside, other=0.0)
    value_a, value_b = tl.load(v + a), tl.load(v + b, mask=inside, other=0.0)
    tl.store(k_pool + offset + a, as_page_type(key_a, k_pool.dtype.element_ty))
    tl.store(k_pool + offset + b, as_page_type(key_b, k_pool.dtype.element_ty), mask=inside)
    tl.store(v_pool + offset + a, as_page_type(value_a, v_pool.dtype.element_ty))
    tl.store(v_pool + offset + b, as_page_type(value_b, v_pool.dtype.element_ty), mask=inside)


def write_pages(
    k: torch.Tensor,
    v: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """Writes `k`, `v` [tokens, kv_heads, head_dim], whose rows are contiguous.

    `slot_mapping` [tokens] int32 says where. The pools are [positions, kv_heads, head_dim].
    """
    width = k.shape[1] * k.shape[2]
    _write_kernel[(len(k),)](
        k, v, k_pool, v_pool, slot_mapping, k.stride(0), v.stride(0), width,
        **row_parts(width), **overlapped(k.device),
    )  # fmt: skip
