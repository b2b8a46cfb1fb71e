"""Captures CUDA graphs that share one pool of memory, and counts what that cost."""

import time
from collections.abc import Callable

import torch


class GraphCapture:
    """Graphs captured here are replayed one after the other on one stream, so they may use the same memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.count, self.seconds = 0, 0.0
        self._pool = torch.cuda.graph_pool_handle()
        self._free_before = torch.cuda.mem_get_info(device)[0]

    def __call__(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """`work` reads and writes tensors that outlive the graph. It runs once for real, which compiles its kernels and fills
        its caches, and once more while it is captured."""
        began = time.perf_counter()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            work()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            work()
        self.count += 1
        self.seconds += time.perf_counter() - began
        return graph

    @property
    def report(self) -> str:
        used = max(0, self._free_before - torch.cuda.mem_get_info(self.device)[0]) / 2**30
        return f"{self.count} graphs captured in {self.seconds:.1f} s, {used:.2f} GiB"
