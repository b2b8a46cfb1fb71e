"""Whole engines over Ray in layouts: the tokens of one process, and nothing left behind.

A start takes 10 to 20 seconds, so one engine shows several things.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_courses import (
    End,
    check_ends,
    check_gone,
    expected,
    options,
    pids_of,
    serve,
)
from tiny_decoders import word_tokenizer

from antiphon import AsyncEngine
from antiphon.benchmarks.rank_processes import RankProcesses
from antiphon.config.parallel import Parallel

pytestmark = pytest.mark.usefixtures("ray_cluster")

COLOCATED = {"placement": "colocated"}
APART = {"placement": "disaggregated"}
TENSOR, STAGES = {"decoder_tensor_parallel_size": 2}, {"decoder_pipeline_parallel_size": 2}
PAGES = {"bart": 22, "t5": 22, "whisper": 308}  # of 4 tokens: too few for 4 sequences
Case = tuple[str, int, dict[str, Any]]

# (family, GPUs, options): a test of each. T5 on CPUs: tests/integration/test_{ranks,pools}.py.
ON_CPUS: list[Case] = [
    ("whisper", 4, {**TENSOR, "encoder_replicas": 2}),
    ("whisper", 5, {**STAGES, "decoder_replicas": 2}),
    ("bart", 4, {**STAGES, "encoder_replicas": 2}),
    ("bart", 5, {**TENSOR, "decoder_replicas": 2}),
]
ON_GPUS: list[Case] = [
    ("t5", 2, APART),
    ("t5", 2, {**COLOCATED, **STAGES}),
    ("whisper", 2, {**COLOCATED, **TENSOR}),
    ("bart", 2, APART),
    ("whisper", 3, {**APART, "decoder_replicas": 2}),
    ("bart", 3, {**APART, "encoder_replicas": 2}),
    ("t5", 4, {**COLOCATED, **TENSOR, **STAGES}),
    ("whisper", 4, {**TENSOR, "encoder_tensor_parallel_size": 2, "encoder_tp_mode": "data"}),
    ("bart", 4, {"pipeline_parallel_size": 2}),
    ("t5", 4, {"tensor_parallel_size": 2, "encoder_tp_mode": "weights", "enforce_eager": True}),
]
CASES = {"cpu": ON_CPUS, "cuda": ON_GPUS}


def marks(device: str, count: int) -> list[Any]:
    """Of a test on so many GPUs, or on CPUs. Where GPUs are missing, nothing is started."""
    if device == "cpu":
        return [pytest.mark.slow]
    here = torch.cuda.device_count()
    missing = pytest.mark.skipif(here < count, reason=f"needs {count} GPUs, and torch sees {here}")
    return [pytest.mark.multi_gpu, missing]


def cases() -> Iterator[Any]:
    for device, of_device in CASES.items():
        for family, count, layout in of_device:
            name = " ".join([device, family, *(f"{key}={it}" for key, it in layout.items())])
            yield pytest.param(device, family, count, layout, marks=marks(device, count), id=name)


@pytest.fixture(scope="module")
def folders(t5_folder: Path, whisper_folder: Path, checkpoints: Any) -> dict[str, Path]:
    """Checkpoints with tokenizers."""
    bart: Path = checkpoints("bart")[0]
    word_tokenizer().save_pretrained(bart)
    return {"bart": bart, "t5": t5_folder, "whisper": whisper_folder}


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> Callable[[str, str], dict[int, End]]:
    """What one process gives, by device and family."""
    known: dict[tuple[str, str], dict[int, End]] = {}

    def get(device: str, family: str) -> dict[int, End]:
        if (device, family) not in known:
            with RankProcesses(1, "any") as processes:
                arguments = folders[family], family, device
                (known[device, family],) = processes.run(Parallel(), expected, *arguments)
        return known[device, family]

    return get


@pytest.mark.parametrize(("device", "family", "count", "layout"), list(cases()))
def test_engines_give_the_tokens_of_one_process(
    device: str,
    family: str,
    count: int,
    layout: dict[str, Any],
    folders: dict[str, Path],
    alone: Callable[[str, str], dict[int, End]],
) -> None:
    """Requests are mixed, staggered, cancelled, and preempted; then all of it is gone."""
    wanted = alone(device, family)

    async def scenario() -> tuple[dict[int, End], dict[str, int], list[int]]:
        chosen = options(device, num_kv_pages=PAGES[family], **layout)
        async with AsyncEngine(str(folders[family]), **chosen) as engine:
            pids = await pids_of(engine)
            assert len(pids) == count
            return await serve(engine, family), await engine.stats(), list(pids.values())

    ends, stats, pids = asyncio.run(scenario())
    check_ends(ends, wanted)
    if "decoder_replicas" not in layout:
        assert stats["preemptions"] > 0, stats
    check_gone(pids)


@pytest.mark.parametrize(
    "device",
    [pytest.param(device, marks=marks(device, 2), id=device) for device in CASES],
)
def test_a_replica_comes_back_when_a_rank_is_killed_or_hangs(
    device: str,
    folders: dict[str, Path],
    alone: Callable[[str, str], dict[int, End]],
) -> None:
    """Its requests go on: what was told to callers is not told again, and nothing is lost."""
    wanted = alone(device, "t5")

    async def scenario() -> list[int]:
        chosen = options(device, collective_timeout=4.0, **COLOCATED, **TENSOR)
        async with AsyncEngine(str(folders["t5"]), **chosen) as engine:
            every = []
            for number in (signal.SIGKILL, signal.SIGSTOP):
                before = await pids_of(engine)
                every += before.values()
                serving = asyncio.create_task(serve(engine, "t5"))
                await asyncio.sleep(0.15 if device == "cpu" else 0.03)
                follower = next(name for name in before if name.endswith("/1"))
                os.kill(before[follower], number)
                check_ends(await asyncio.wait_for(serving, 90), wanted)
                async with asyncio.timeout(60):  # a GPU may have been done before
                    while not set(before.values()).isdisjoint((await pids_of(engine)).values()):
                        await asyncio.sleep(0.2)
                check_ends(await asyncio.wait_for(serve(engine, "t5"), 90), wanted)
            return [*every, *(await pids_of(engine)).values()]

    check_gone(asyncio.run(scenario()))
