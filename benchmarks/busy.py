"""Which processor bounds a load: percent of a core by process, and of its time by GPU."""

import os
import subprocess
import time
from collections.abc import Mapping
from shutil import which
from typing import Self

import psutil

SAMPLE_MILLISECONDS = 100
Percents = dict[str, float]


class Busy:
    """A context that measures what runs inside. `cpus`: processes by the names of `pids`, all of
    their threads together, where 100 is one core. `gpus`: by number, of the time in which a kernel
    ran, as the driver samples it; empty without `nvidia-smi`."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.cpus: Percents = {}
        self.gpus: Percents = {}

    def __enter__(self) -> Self:
        self._sampler = _sample_gpus()
        self._before, self._began = self._cpu_seconds(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        took = time.monotonic() - self._began
        for name, seconds in self._cpu_seconds().items():
            self.cpus[name] = 100 * (seconds - self._before[name]) / took
        if self._sampler is not None:
            self._sampler.terminate()
            self.gpus = means(self._sampler.communicate()[0])

    def _cpu_seconds(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: one.user + one.system for name, one in times.items()}


def _sample_gpus() -> subprocess.Popen[str] | None:
    """Of the GPUs that this process may use."""
    if which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits"]
    command += ["-lms", str(SAMPLE_MILLISECONDS)]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command += ["-i", visible]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def means(lines: str) -> Percents:
    """Of lines such as "0, 97" by their first number; lines that are cut short do not count."""
    seen: dict[str, list[float]] = {}
    for line in lines.splitlines():
        gpu, _, percent = line.partition(",")
        if percent.strip().isdigit():
            seen.setdefault(gpu.strip(), []).append(float(percent))
    return {gpu: sum(all_seen) / len(all_seen) for gpu, all_seen in seen.items()}
