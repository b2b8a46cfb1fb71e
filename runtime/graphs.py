"""Captures CUDA graphs that share one pool of memory, and counts what that cost."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

TYPICAL_LAYERS = 2  # launch every kernel that a model's layers do: the first has nothing before it, the others have

Shape = TypeVar("Shape")
Plan = TypeVar("Plan")
Work = Callable[[], object]


@dataclass(frozen=True)
class Captured(Generic[Plan]):
    graph: torch.cuda.CUDAGraph
    plan: Plan  # kept alive: the graph reads its tensors


class GraphCapture:
    """Graphs of `model` captured here are replayed one after the other on one stream, so they may use the same memory."""

    def __init__(self, device: torch.device, model: nn.Module) -> None:
        self.device, self.model = device, model
        self.stream = torch.cuda.Stream(device)
        self.count, self.seconds, self.compiled_in = 0, 0.0, 0.0
        self._pool = torch.cuda.graph_pool_handle()
        self._free_before = torch.cuda.mem_get_info(device)[0]

    def each(
        self, shapes: Sequence[Shape], prepare: Callable[[Shape], tuple[Plan, Work]]
    ) -> dict[Shape, Captured[Plan]]:
        """A graph for each of `shapes`, best largest first: the memory that the largest takes serves the others. `prepare` gives a
        shape's plan and its work, which reads and writes tensors that outlive the graph; it is asked twice, so that it may put what
        the work reads where the next shape's will be."""
        self._compile(prepare(shape)[1] for shape in shapes)
        captured = {}
        for shape in shapes:
            plan, work = prepare(shape)
            captured[shape] = Captured(self._capture(work), plan)
        return captured

    def _compile(self, works: Iterable[Work]) -> None:
        """The kernels that `works` launch, together. One after the other, as they are met, they would be most of a start that finds
        no compiled kernels on disk."""
        from antiphon.kernels.compile import compiling_together  # Triton exists where CUDA does

        began = time.perf_counter()
        layers = self.model.layers
        assert isinstance(layers, nn.ModuleList)
        self.model.layers = layers[:TYPICAL_LAYERS]
        self.stream.wait_stream(
            torch.cuda.current_stream(self.device)
        )  # what is read was made there
        try:
            with compiling_together(), torch.cuda.stream(self.stream):
                for work in works:
                    work()
                    self.stream.synchronize()  # what it reads may be overwritten for the next
        finally:
            self.model.layers = layers
        self.compiled_in = time.perf_counter() - began

    def _capture(self, work: Work) -> torch.cuda.CUDAGraph:
        """`work` runs once for real, which loads its kernels and fills its caches, and once more while it is captured."""
        began = time.perf_counter()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            work()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            work()
        self.count += 1
        self.seconds += time.perf_counter() - began
        return graph

    @property
    def report(self) -> str:
        used = max(0, self._free_before - torch.cuda.mem_get_info(self.device)[0]) / 2**30
        return f"kernels compiled in {self.compiled_in:.1f} s, {self.count} graphs captured in {self.seconds:.1f} s, {used:.2f} GiB"
