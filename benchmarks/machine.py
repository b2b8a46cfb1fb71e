"""The measured limits of the machine, which every figure is compared with."""

import platform
import threading
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Self

import torch

SIDE = 8192  # of the matrices
COPIED = 2 << 30  # bytes
SAMPLE_SECONDS = 0.5
HOST_CALLS = 2


@dataclass(frozen=True)
class Machine:
    name: str
    torch: str
    copy_bytes_per_second: float  # read plus written
    bf16_flops_per_second: float
    multiprocessors: int

    def __str__(self) -> str:
        copy, matmul = self.copy_bytes_per_second / 1e12, self.bf16_flops_per_second / 1e12
        return f"{self.name}: copy {copy:.2f} TB/s, bf16 matmul {matmul:.0f} TFLOP/s"


def measure() -> Machine:
    """On the current CUDA device, random data, medians."""
    source = torch.randint(0, 255, (COPIED,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * COPIED / seconds(partial(target.copy_, source))
    del source, target
    left, right = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    matmul = 2 * SIDE**3 / seconds(partial(torch.matmul, left, right))
    count = torch.cuda.get_device_properties(0).multi_processor_count
    return Machine(torch.cuda.get_device_name(), torch.__version__, copy, matmul, count)


def host() -> str:
    """This machine and its software, in one line."""
    processor = platform.processor() or platform.machine()
    return f"{processor}, Python {platform.python_version()}, torch {torch.__version__}"


def device_name() -> str:
    """The GPU, or this machine where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else host()


class PeakMemory:
    """A context that samples the memory of this process and its descendants, Ray's included.

    `peak`: the largest sum of proportional set sizes, in bytes; None without psutil.
    """

    def __init__(self) -> None:
        self.peak: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        if find_spec("psutil") is None:
            return
        import psutil

        stopped = False
        while not stopped:
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:  # it has ended
                    continue
            self.peak = max(self.peak or 0, total)
            stopped = self._stop.wait(SAMPLE_SECONDS)


def seconds(work: Callable[[], object], milliseconds: int = 100) -> float:
    """Median time of `work` on the device, by CUDA events, after a warm-up. Where there is none: of
    a few calls by the host's clock, their mean."""
    if not torch.cuda.is_available():
        return timeit.timeit(work, number=HOST_CALLS) / HOST_CALLS
    from triton.testing import do_bench

    warm_up = max(10, milliseconds // 4)
    median: float = do_bench(work, warmup=warm_up, rep=milliseconds, return_mode="median")
    return median / 1e3


def seconds_in_graph(work: Callable[[int], object], count: int) -> float:
    """Mean time of `work(0)` to `work(count - 1)`, replayed as one graph, so without launch gaps.

    Each call should have its own data, or the cache will hold it.
    """
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(count):  # what a first call does, such as describing its data to the driver
            work(i)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            work(i)
    return seconds(graph.replay) / count
