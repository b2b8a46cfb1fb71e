"""Where the time of some work goes, by kernel; on a CPU, by operator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from antiphon.benchmarks.report import Row

PROFILED = 5  # calls in a trace
NAME = 70  # of a kernel: its first characters


@dataclass(frozen=True)
class Kernel:
    name: str
    us: float  # a call of the work, all launches together
    launches: float  # a call


def profiler() -> torch.profiler.profile:
    """A context that traces kernels; on a CPU, operators."""
    activities = torch.profiler.ProfilerActivity
    kind = activities.CUDA if torch.cuda.is_available() else activities.CPU
    return torch.profiler.profile(activities=[kind])


def traced(work: Callable[[], Any]) -> torch.profiler.profile:
    """A trace of PROFILED calls of `work`."""
    on_device = torch.cuda.is_available()
    if on_device:
        torch.cuda.synchronize()
    with profiler() as trace:
        for _ in range(PROFILED):
            work()
        if on_device:
            torch.cuda.synchronize()
    return trace


def kernels(trace: torch.profiler.profile, calls: int = PROFILED) -> list[Kernel]:
    """Those of a trace of so many calls, the longest first."""
    on_device = torch.cuda.is_available()
    every = [
        Kernel(
            event.key[:NAME],
            (event.self_device_time_total if on_device else event.self_cpu_time_total) / calls,
            event.count / calls,
        )
        for event in trace.key_averages()
    ]
    return sorted((kernel for kernel in every if kernel.us > 0), key=lambda kernel: -kernel.us)


def rows_of(every: list[Kernel], most: int) -> list[Row]:
    """The longest `most` kernels with their shares of the sum, the others as one row, and all."""
    total = sum(kernel.us for kernel in every)
    if not total:  # where the profiler sees no kernels
        return []
    rest = every[most:]
    others = Kernel(f"{len(rest)} others", *_sums(rest))
    shown = [*every[:most], *([others] if rest else []), Kernel("all", *_sums(every))]
    return [
        {
            "us": kernel.us,
            "%": 100 * kernel.us / total,
            "launches": kernel.launches,
            "kernel": kernel.name,
        }
        for kernel in shown
    ]


def _sums(every: list[Kernel]) -> tuple[float, float]:
    return sum(kernel.us for kernel in every), sum(kernel.launches for kernel in every)
