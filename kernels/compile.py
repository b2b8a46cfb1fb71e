"""Compiles many Triton kernels at once, before a model's first step.

Triton compiles a kernel where it is first launched. One after the other, as a model
meets them, they would be most of a start that finds no compiled kernels on disk.
Triton's own asynchronous compilation is used; how launches become compilations is
private to Triton, so it is checked here.
"""

import inspect
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import triton
from triton.runtime.jit import JITFunction

logger = logging.getLogger(__name__)
_replacing_run = threading.Lock()  # Triton's kernels are shared by all threads


@contextmanager
def compiling_together() -> Iterator[None]:
    """Inside, kernels that this thread launches are compiled, several at a time, and not run.

    At the end all are compiled; an error of a compilation is raised there. With a
    Triton whose insides are not those known here, launches run, and each kernel is
    compiled when it is met.
    """
    asynchronous = _asynchronous_compilation()
    if asynchronous is None:
        logger.info(
            "Triton %s is not known to compile kernels together: they are compiled one by one",
            triton.__version__,
        )
        yield
        return
    with (
        _replacing_run,
        ThreadPoolExecutor() as pool,
        asynchronous.AsyncCompileMode(pool) as mode,
        _launches_compile(lambda: asynchronous.active_mode.get() is mode),
    ):
        yield


@contextmanager
def _launches_compile(condition: Any) -> Iterator[None]:
    """Inside, launches of all kernels are compilations only where `condition()` is true."""
    run = JITFunction.run

    def compile_here(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, grid=grid, warmup=warmup or condition(), **options)

    JITFunction.run = compile_here
    try:
        yield
    finally:
        JITFunction.run = run


def _asynchronous_compilation() -> Any | None:
    """Triton's module for it (3.5 to 3.9); None if it, or a kernel's `run`, has changed."""
    try:
        from triton.runtime import _async_compile
    except ImportError:
        return None
    run = inspect.signature(JITFunction.run).parameters
    known = (
        hasattr(_async_compile, "AsyncCompileMode")
        and hasattr(_async_compile, "active_mode")
        and {"grid", "warmup"} <= set(run)
    )
    return _async_compile if known else None
