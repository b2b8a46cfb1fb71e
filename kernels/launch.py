"""Programmatic dependent launch (CUDA programming guide; Hopper and later).

A kernel starts while the kernel before it on the stream ends. It fetches what does not
depend on that kernel, then waits for it: this hides most of what a launch costs. Such a
kernel must call `wait_for_previous` before it reads or writes anything that other
kernels write. From then on all kernels before it are complete, and the next one may
start.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

CAPABILITY = (9, 0)  # of CUDA devices: older ones have no such launches


@triton.jit
def wait_for_previous(OVERLAP: tl.constexpr):
    """Waits for the kernels before this one, and lets the next one start."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def to_l2(pointers):
    """Prefetches the cache lines at `pointers`; nothing waits for them."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; // $0",
        "=r,l",
        [pointers.to(tl.int64)],
        tl.int32,
        is_pure=False,
        pack=1,
    )


@cache
def _overlaps(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


def overlapped(device: torch.device) -> dict[str, Any]:
    """Launch arguments of a kernel that has the parameter `OVERLAP`."""
    return {"OVERLAP": True, "launch_pdl": True} if _overlaps(device) else {"OVERLAP": False}
