"""Every test here runs on GPUs with NCCL, marked `multi_gpu`, and on CPUs with gloo, marked `slow`.

What runs on machines with several GPUs has so run elsewhere before.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from antiphon.benchmarks.rank_processes import RankProcesses

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param("cuda", marks=pytest.mark.multi_gpu),
]
RankRuns = Callable[..., list[Any]]


def need_gpus(device: str, count: int) -> None:
    """Skips a test for `count` GPUs where there are fewer."""
    if device == "cuda" and (here := torch.cuda.device_count()) < count:
        pytest.skip(f"needs {count} GPUs, and torch sees {here}")


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    need_gpus(request.param, 2)
    return str(request.param)


@pytest.fixture(scope="module")
def run_ranks(device: str) -> Iterator[RankRuns]:
    """`RankProcesses.run` on the module's device."""
    with RankProcesses(4, device) as processes:

        def run(parallel: Any, work: Any, *arguments: Any, **limits: Any) -> list[Any]:
            need_gpus(device, parallel.num_ranks)
            return processes.run(parallel, work, *arguments, **limits)

        yield run


@pytest.fixture(scope="module")
def num_devices(device: str) -> int:
    """How many ranks there may be, 4 at most."""
    return 4 if device == "cpu" else min(4, torch.cuda.device_count())
