"""Captures CUDA graphs that share one pool of memory, and reports what that cost."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from antiphon.runtime.ranks import Ranks

logger = logging.getLogger(__name__)

TYPICAL_LAYERS = 2

Shape = TypeVar("Shape")
Metadata = TypeVar("Metadata")
Work = Callable[[], object]


@dataclass(frozen=True)
class Captured(Generic[Metadata]):
    graph: torch.cuda.CUDAGraph
    metadata: Metadata  # of the attention; kept alive, because the graph reads its tensors


class GraphCapture:
    """Captures graphs of `model` that are replayed one after the other on one stream,
    so that they may use the same memory. All `ranks` (see `Ranks.pausable`) capture the
    same shapes."""

    def __init__(
        self,
        device: torch.device,
        model: nn.Module,
        ranks: Ranks | None = None,
        typical_layers: int = TYPICAL_LAYERS,
    ) -> None:
        """`typical_layers`: see `only_typical_layers`."""
        self.device, self.model, self.typical_layers = device, model, typical_layers
        self.ranks = ranks or Ranks.alone()
        self.stream = torch.cuda.Stream(device)
        self.count, self.seconds, self.compiled_in = 0, 0.0, 0.0
        self._pool = torch.cuda.graph_pool_handle()
        self._free_before = torch.cuda.mem_get_info(device)[0]

    def capture_all(
        self, shapes: Sequence[Shape], prepare: Callable[[Shape], tuple[Metadata, Work]]
    ) -> dict[Shape, Captured[Metadata]]:
        """Captures a graph for each of `shapes`; largest first is best, because the
        memory of the first graph then serves the others. Raises RankError if other
        ranks have other `shapes`: their sums would meet the wrong ones.

        `prepare` returns a shape's metadata and its work, which reads and writes
        tensors that outlive the graph. It is called twice for a shape: it may put what
        the work reads where the work of the next shape reads.
        """
        self.ranks.check_same("the CUDA graphs that they capture", list(shapes), self.device)
        self._compile(prepare(shape)[1] for shape in shapes)
        captured = {}
        for shape in shapes:
            metadata, work = prepare(shape)
            self.ranks.barrier()  # none is so late that the others' collectives time out
            captured[shape] = Captured(self._capture(work), metadata)
        return captured

    def _compile(self, works: Iterable[Work]) -> None:
        """Compiles the kernels that `works` launch, several at a time. Compiled one
        after the other, when first launched, they would take most of a start that finds
        none of them on disk. Ranks exchange nothing: some may find more on disk than
        others."""
        from antiphon.kernels.compile import compiling_together  # Triton exists where CUDA does

        began = time.perf_counter()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # it made what is read
        with (
            only_typical_layers(self.model, self.typical_layers),
            self.ranks.paused(),
            compiling_together(),
            torch.cuda.stream(self.stream),
        ):
            for work in works:
                work()
                self.stream.synchronize()  # the next `prepare` may overwrite what this work reads
        self.compiled_in = time.perf_counter() - began

    def _capture(self, work: Work) -> torch.cuda.CUDAGraph:
        """Runs `work` once, which loads its kernels and fills its caches, then captures it."""
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
        if not self.ranks.is_alone:
            self.ranks.graphs.append(graph)
        self.count += 1
        self.seconds += time.perf_counter() - began
        return graph

    @property
    def report(self) -> str:
        """Seconds, number of graphs and GPU memory so far, as one line."""
        used = max(0, self._free_before - torch.cuda.mem_get_info(self.device)[0]) / 2**30
        return (
            f"kernels compiled in {self.compiled_in:.1f} s, "
            f"{self.count} graphs captured in {self.seconds:.1f} s, {used:.2f} GiB"
        )


@contextmanager
def only_typical_layers(model: nn.Module, count: int = TYPICAL_LAYERS) -> Iterator[None]:
    """Inside, `model.layers` holds its first `count` layers only. Two launch every
    distinct kernel of most models: the first layer's norm has no residual to add, the
    norms of later layers do."""
    layers = model.layers
    assert isinstance(layers, nn.ModuleList)
    model.layers = layers[:count]
    try:
        yield
    finally:
        model.layers = layers


class GraphSet(Generic[Shape, Metadata]):
    """One captured graph for each shape that the inputs of some work are padded to.
    What the capture cost is in `report`, and logged under `name`."""

    def __init__(
        self,
        name: str,
        device: torch.device,
        model: nn.Module,
        shapes: Sequence[Shape],
        prepare: Callable[[Shape], tuple[Metadata, Work]],
        ranks: Ranks | None = None,
        typical_layers: int = TYPICAL_LAYERS,
    ) -> None:
        """Captures them all; see `GraphCapture`."""
        capture = GraphCapture(device, model, ranks, typical_layers)
        self._captured = capture.capture_all(shapes, prepare)
        self.report = capture.report
        logger.info("%s: %s", name, self.report)

    @property
    def shapes(self) -> Collection[Shape]:
        """In the order of capture."""
        return self._captured.keys()

    def metadata(self, shape: Shape) -> Metadata:
        """That of the graph of `shape`, to be renewed before a replay where its backend asks."""
        return self._captured[shape].metadata

    def replay(self, shape: Shape) -> None:
        """Queues the graph of `shape` on the current stream."""
        self._captured[shape].graph.replay()
