"""Triton kernel that writes keys and values into their pages, as float8 where the pool keeps that: one launch for both."""

import torch
import triton
import triton.language as tl

from antiphon.layers.triton_launch import overlapped, wait_for_previous
from antiphon.layers.triton_norms import saturated


@triton.jit
def _write_kernel(k, v, k_pool, v_pool, slots, k_token, v_token, width, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    wait_for_previous(OVERLAP)
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    key = tl.load(k + token * k_token + at, mask=inside).to(tl.float32)
    value = tl.load(v + token * v_token + at, mask=inside).to(tl.float32)
    if k_pool.dtype.element_ty == tl.float8e4nv:  # saturate: its overflow is NaN
        key, value = saturated(key), saturated(value)
    tl.store(k_pool + slot * width + at, key.to(k_pool.dtype.element_ty), mask=inside)
    tl.store(v_pool + slot * width + at, value.to(v_pool.dtype.element_ty), mask=inside)


def write_pages(k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slots: torch.Tensor) -> None:
    """`k`, `v` [tokens, heads, head_dim], rows contiguous, into pools [slots, heads, head_dim] at `slots` [tokens] int32."""
    width = k.shape[1] * k.shape[2]
    block = min(1024, triton.next_power_of_2(width))
    grid = (k.shape[0], triton.cdiv(width, block))
    _write_kernel[grid](
        k, v, k_pool, v_pool, slots, k.stride(0), v.stride(0), width, BLOCK=block, num_warps=4, **overlapped(k.device)
    )
