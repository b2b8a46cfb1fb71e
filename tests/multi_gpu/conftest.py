"""Every test here runs on GPUs with NCCL, marked `multi_gpu`, and on CPUs with gloo, marked `slow`.

What runs on machines with several GPUs has so run elsewhere before.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_decoders import DECODERS, make_decoder

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


@pytest.fixture(scope="session")
def folder_of(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny checkpoint of a family."""
    decoders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in DECODERS:
            folder: Path = checkpoints(family)[0]
            return folder
        if family not in decoders:
            decoders[family] = tmp_path_factory.mktemp(family)
            make_decoder(family, decoders[family])
        return decoders[family]

    return get
