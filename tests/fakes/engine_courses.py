"""Whole engines under mixed requests, and what must be the same in every layout."""

import asyncio
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from antiphon import AsyncEngine, SamplingParams
from antiphon.benchmarks.rank_processes import Seat

COUNT = 14
CANCELLED = (4, 9)
GONE_SECONDS = 10.0  # for a GPU's memory after the end of its process
Options = dict[str, Any]
End = tuple[list[int], float]  # tokens, and the sum of their log-probabilities


@dataclass(frozen=True)
class Call:
    """One request, which comes `after` seconds."""

    prompt: Any
    params: SamplingParams
    after: float


def calls(family: str) -> list[Call]:
    """Short and long inputs and outputs, greedy and drawn; some inputs come twice."""
    rng = np.random.default_rng(12)
    made: list[Call] = []
    for number in range(COUNT):
        params = SamplingParams(
            temperature=0.0 if number % 3 else 0.8,
            seed=number,
            max_tokens=int(rng.integers(4, 30)),
            ignore_eos=True,
            logprobs=0,
        )
        prompt = made[number - 5].prompt if number in (7, 11) else _prompt(family, rng)
        made.append(Call(prompt, params, 0.002 * number))
    return made


def _prompt(family: str, rng: np.random.Generator) -> Any:
    if family == "whisper":
        clip = (rng.standard_normal(int(rng.integers(4_000, 48_000))) * 0.1).astype(np.float32)
        start = "<|en|><|transcribe|><|notimestamps|>"
        return {"prompt": start, "multi_modal_data": {"audio": (clip, 16_000)}}
    return {"prompt_token_ids": rng.integers(3, 60, int(rng.integers(3, 30))).tolist()}


def options(device: str, **more: Any) -> Options:
    """Of a small engine."""
    small = {"max_num_seqs": 4, "kv_page_size": 4, "num_threads": 1, "dtype": "float32"}
    return {"device": device, **small, **more}


async def one(engine: AsyncEngine, call: Call) -> End:
    await asyncio.sleep(call.after)
    output = (await engine.generate(call.prompt, call.params)).outputs[0]
    total = output.cumulative_logprob
    return output.token_ids, float("nan") if total is None else total


async def serve(engine: AsyncEngine, family: str) -> dict[int, End]:
    """All calls, by their numbers; those of CANCELLED are given up on the way."""
    tasks = [asyncio.create_task(one(engine, call)) for call in calls(family)]
    await asyncio.sleep(0.05)
    for number in CANCELLED:
        tasks[number].cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end
    return {n: end for n, end in enumerate(ends) if not isinstance(end, BaseException)}


def expected(seat: Seat, folder: Path, family: str, device: str) -> dict[int, End]:
    """What one process without Ray gives."""

    async def scenario() -> dict[int, End]:
        more = {"kv_cache_memory_gib": 1} if device == "cuda" else {}
        async with AsyncEngine(str(folder), ray=False, **options(device, **more)) as engine:
            ends = await asyncio.gather(*(one(engine, call) for call in calls(family)))
            return dict(enumerate(ends))

    return asyncio.run(scenario())


def check_ends(actual: dict[int, End], wanted: dict[int, End]) -> None:
    """The same tokens; log-probabilities within 1e-3 where they are known."""
    assert set(wanted) - set(actual) <= set(CANCELLED)
    for number, (tokens, total) in actual.items():
        other, other_total = wanted[number]
        assert tokens == other, f"request {number}"
        if not np.isnan(total):
            np.testing.assert_allclose(total, other_total, atol=1e-3 * max(1, len(tokens)))


def check_gone(pids: list[int]) -> None:
    """No process is left, and none of them holds memory of a GPU."""
    for pid in pids:
        assert not is_running(pid), f"process {pid} outlives its engine"
    deadline = time.monotonic() + GONE_SECONDS
    while left := set(pids) & gpu_processes():
        assert time.monotonic() < deadline, f"{left} still hold memory of a GPU"
        time.sleep(0.2)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def gpu_processes() -> set[int]:
    """Processes that hold memory of any GPU here."""
    command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:  # no GPU here
        return set()
    return {int(line) for line in output.split() if line.strip().isdigit()}


async def pids_of(engine: AsyncEngine) -> dict[str, int]:
    """By the names of workers and their ranks."""
    spots = await engine.workers.processes()  # type: ignore[union-attr]
    return {name: spot.pid for name, spot in spots.items()}
