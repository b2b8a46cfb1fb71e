"""Programmatic dependent launch (CUDA programming guide; Hopper and later): a kernel starts while the one before it on its stream
ends, fetches what does not depend on that one, and waits for the rest. It hides most of what a launch costs.

A kernel launched so must call `wait_for_previous` before it reads or writes anything that others write; then everything before it on the
stream is complete, and the next one may start.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime._async_compile import AsyncCompileMode, active_mode
from triton.runtime.jit import JITFunction

CAPABILITY = (9, 0)
_replacing_run = threading.Lock()  # of Triton's kernels, which all threads share


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


@contextmanager
def only_compiling() -> Iterator[None]:
    """Inside, what this thread launches of Triton kernels does not run; it is compiled, several kernels at a time. At the end all
    are. Raises there what a compilation raised."""
    with _replacing_run, ThreadPoolExecutor() as pool, AsyncCompileMode(pool) as mode:
        run = JITFunction.run

        def compile_here(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            return run(
                kernel, *args, grid=grid, warmup=warmup or active_mode.get() is mode, **options
            )

        JITFunction.run = compile_here
        try:
            yield
        finally:
            JITFunction.run = run
