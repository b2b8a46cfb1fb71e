"""Numba kernels: compiled once for a machine, kept on disk, ready before the first request.

Folders, in order of preference: `NUMBA_CACHE_DIR` where that is set, the folder of
their source, the user's cache folder. The first that can be written to is used. Numba
replaces whole files, so several processes may compile at once; the last one's file
stays.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

logger = logging.getLogger(__name__)


def compiled(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """`numba.njit(**options)` that keeps compiled kernels on disk, or in memory if it must."""

    def decorate(function: Callable[..., None]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:  # what Numba raises without a folder for its cache
            logger.warning(
                "compiled kernels are not kept, every start compiles them "
                "(set NUMBA_CACHE_DIR): %s",
                error,
            )
            return numba.njit(**options)(function)

    return decorate


def make_ready(kernel: Any, *arguments: Any) -> None:
    """Calls `kernel`, which compiles it for these types or reads it from disk.

    Compiling takes seconds, so it is logged.
    """
    if tuple(map(numba.typeof, arguments)) in kernel.signatures:  # in this process already
        return
    name, folder = kernel.__name__.strip("_"), kernel.stats.cache_path
    on_disk = folder is not None and any(Path(folder).glob(f"*.{kernel.__name__}-*.nbi"))
    if not on_disk:
        where = "in memory alone" if folder is None else f"in {folder}"
        logger.info(
            "compiling %s for this CPU: some seconds, at the first start only; kept %s", name, where
        )
    started = time.perf_counter()
    kernel(*arguments)
    logger.debug("%s: ready after %.2f s", name, time.perf_counter() - started)
