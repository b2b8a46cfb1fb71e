"""How long a sum over the ranks of a stage takes, in microseconds, by its size and way: NCCL, and
torch's kernels over symmetric memory, launched one by one and replayed from a CUDA graph; and what
the engine takes with the norm behind it, and one kernel for both. On a machine without GPUs: gloo.

python -m antiphon.benchmarks.reductions [ranks] [hidden] [dtype]
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch

from antiphon.benchmarks.rank_processes import HOST, RankProcesses, Seat
from antiphon.config.parallel import Parallel
from antiphon.runtime.groups import Group
from antiphon.runtime.joining import join, limit_waiting
from antiphon.runtime.nccl_group import NcclGroup
from antiphon.runtime.symmetric_memory import TWO_SHOT_BYTES, WIRE_DTYPES, Way, choose_way
from antiphon.runtime.torch_groups import TorchGroup

ROWS = (1, 8, 32, 64, 128, 256, 512, 1024, 1500, 12000)
WARM_UP, CALLS, REPLAYS = 5, 20, 20
APART, TOGETHER = "chosen, then norm", "in the norm"
MOST_BYTES = 1 << 30  # however many rows there is room for
Sum = Callable[[torch.Tensor], torch.Tensor | None]
Figures = dict[tuple[int, str], float]  # microseconds, by rows and what was measured


def ways_of(group: Group) -> dict[str, Sum]:
    """All ways that this group has to sum."""
    if not isinstance(group, NcclGroup):
        return {"gloo": group.all_reduce}
    ways: dict[str, Sum] = {"NCCL": partial(TorchGroup.all_reduce, group)}
    if group.small_sum is not None:
        by = group.small_sum.by
        ways |= {str(way): partial(by, way) for way in (Way.ONE_SHOT, Way.TWO_SHOT)}
    return ways | {APART: partial(_summed_and_normed, group), TOGETHER: partial(_in_norm, group)}


def _summed_and_normed(group: Group, x: torch.Tensor) -> torch.Tensor:
    from antiphon.kernels.norms import add_norm  # Triton exists where CUDA does

    weight = x[0]
    return add_norm(x, group.all_reduce(x)[None], None, weight, weight, 1e-5)[1]


def _in_norm(group: Group, x: torch.Tensor) -> torch.Tensor | None:
    from antiphon.kernels.summed_norm import summed_norm

    shared, weight = group.shared_rows(x), x[0]
    return None if shared is None else summed_norm(x, x, weight, weight, 1e-5, shared)[1]


def fits(way: str, x: torch.Tensor, group: Group) -> bool:
    if way in ("gloo", "NCCL", APART):
        return True
    if way == TOGETHER:
        return group.shared_rows(x) is not None
    return x.dtype in WIRE_DTYPES and x.numel() * WIRE_DTYPES[x.dtype].itemsize <= TWO_SHOT_BYTES


@torch.inference_mode()
def measure(seat: Seat, device_type: str, hidden: int, dtype: torch.dtype) -> Figures:
    """What one rank sees. All make the same calls."""
    device = torch.device(device_type)
    ranks = join(seat.spec, seat.address, HOST, device, norm_bytes=MOST_BYTES)
    limit_waiting(ranks, seat.spec)
    figures: Figures = {}
    for rows in ROWS:
        x = torch.zeros(rows, hidden, dtype=dtype, device=device)
        for name, total in ways_of(ranks.tensor).items():
            if not fits(name, x, ranks.tensor):
                continue
            for _ in range(WARM_UP):
                total(x)
            work = partial(_repeat, total, x)
            ranks.barrier()
            figures[rows, f"{name}, eager"] = _seconds(work, device, 1) / CALLS * 1e6
            if device.type == "cuda":
                graph = torch.cuda.CUDAGraph()
                ranks.graphs.append(graph)
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    work()
                ranks.barrier()
                seconds = _seconds(graph.replay, device, REPLAYS)
                figures[rows, f"{name}, graph"] = seconds / CALLS * 1e6
    ranks.barrier()
    ranks.close()
    return figures


def _repeat(total: Sum, x: torch.Tensor) -> None:
    for _ in range(CALLS):
        total(x)


def _seconds(work: Callable[[], object], device: torch.device, times: int) -> float:
    """For one `work`, of so many."""
    if device.type == "cpu":
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    work()
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def table(figures: list[Figures], hidden: int, dtype: torch.dtype, ranks: int) -> str:
    """Of all ranks; the slowest counts."""
    columns = list(dict.fromkeys(name for _, name in figures[0]))
    lines = [f"| rows of {hidden} | {' | '.join(columns)} | chosen |"]
    lines.append("| --- " * (len(columns) + 2) + "|")
    for rows in ROWS:
        cells = [
            f"{max(own[rows, name] for own in figures):.1f}" if (rows, name) in figures[0] else ""
            for name in columns
        ]
        chosen = choose_way(torch.Size([rows, hidden]), dtype, ranks)
        lines.append(f"| {rows} | {' | '.join(cells)} | {chosen} |")
    return "\n".join(lines)


def main() -> None:
    gpus = torch.cuda.device_count()
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else max(2, gpus)
    hidden = int(sys.argv[2]) if len(sys.argv) > 2 else 1280
    dtype = getattr(torch, sys.argv[3]) if len(sys.argv) > 3 else torch.bfloat16
    device: Literal["cpu", "cuda"] = "cuda" if gpus >= ranks else "cpu"
    with RankProcesses(ranks, device) as processes:
        figures = processes.run(Parallel(ranks), measure, device, hidden, dtype)
    print(f"{ranks} ranks on {device}, {dtype}, microseconds for one sum:\n")
    print(table(figures, hidden, dtype, ranks))


if __name__ == "__main__":
    main()
