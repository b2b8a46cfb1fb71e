"""Programmatic dependent launch (CUDA programming guide; Hopper and later): a kernel starts while the one before it on its stream
ends, fetches what does not depend on that one, and waits for the rest. It hides most of what a launch costs.

A kernel launched so must call `wait_for_previous` before it reads or writes anything that others write; then everything before it on the
stream is complete, and the next one may start.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

CAPABILITY = (9, 0)


@triton.jit
def wait_for_previous(OVERLAP: tl.constexpr):
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def to_l2(places):
    """Asks for the cache lines at `places`; nothing waits for them."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; // $0",
        "=r,l",
        [places.to(tl.int64)],
        tl.int32,
        is_pure=False,
        pack=1,
    )


@cache
def _overlaps(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


def overlapped(device: torch.device) -> dict[str, Any]:
    """Arguments for the launch of a kernel with a parameter `OVERLAP`."""
    return {"OVERLAP": True, "launch_pdl": True} if _overlaps(device) else {"OVERLAP": False}
