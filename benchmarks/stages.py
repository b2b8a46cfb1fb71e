"""Steps of a replica of several ranks, without Ray or a scheduler: how long one takes, and for how
much of that time each stage waits for another (the bubble of a pipeline).

All ranks run the same plans in the same order, with one lane of sequences for each stage.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from antiphon.benchmarks.rank_processes import HOST, RankProcesses, Seat
from antiphon.benchmarks.report import Row
from antiphon.benchmarks.steps import admissions_of, decodes_plan, random_inputs
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig, resolve
from antiphon.config.parallel import Parallel
from antiphon.decoder.launched_step import LaunchedStep
from antiphon.decoder.runner import DecoderRunner
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.fitted import fitted
from antiphon.runtime.device import Target
from antiphon.runtime.groups import Group
from antiphon.runtime.joining import join, limit_waiting
from antiphon.runtime.ranks import Ranks


class Waits(Group):
    """`group`, and the seconds that this rank has waited in its `receive`: by the clock on a CPU,
    by events on the current stream on a GPU."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self.rank, self.size = group.rank, group.size
        self._group, self._on_gpu = group, device.type == "cuda"
        self.clear()

    def clear(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def seconds(self) -> float:
        """Once the device is done."""
        return self._seconds + sum(one.elapsed_time(other) for one, other in self._events) / 1e3

    def receive(self, into: torch.Tensor, source: int) -> None:
        if not self._on_gpu:
            began = time.perf_counter()
            self._group.receive(into, source)
            self._seconds += time.perf_counter() - began
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        self._group.receive(into, source)
        after.record()
        self._events.append((before, after))

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return self._group.all_reduce(x)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return self._group.all_gather(x)

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        self._group.broadcast(x, source)

    def send(self, x: torch.Tensor, target: int) -> None:
        self._group.send(x, target)

    def barrier(self) -> None:
        self._group.barrier()

    def close(self) -> None:
        self._group.close()


@dataclass(frozen=True)
class Load:
    """`batches`: sequences of each lane's step, or inputs of an encoder's batch. `steps`: that are
    measured. `tokens`: of each encoder input; `length`: of each sequence."""

    batches: list[int]
    tokens: int
    length: int
    steps: int


@dataclass(frozen=True)
class StageTime:
    """Of one rank and batch size: seconds of a step, and those in which it waited for a stage."""

    rank: int
    layers: int
    batch: int
    step: float
    waited: float

    @property
    def busy(self) -> float:
        return self.step - self.waited


class _Rank:
    """What a process needs to measure its rank."""

    def __init__(self, seat: Seat, folder: str, options: dict[str, Any]) -> None:
        self.seat, self.config = seat, resolve(folder, options)
        self.model = ModelConfig.load(self.config.model)
        self.config = fitted(self.model, self.config)
        target = Target.resolve(self.config.model, self.model.raw, self.model.family)
        self.device = target.device
        ranks = join(seat.spec, seat.address, HOST, self.device)
        self._waits = [Waits(group, self.device) for group in (ranks.stages, ranks.backward)]
        stages, backward = self._waits
        self.ranks: Ranks = replace(ranks, stages=stages, backward=backward)

    def loaded(self) -> None:
        limit_waiting(self.ranks, self.seat.spec)

    @contextmanager
    def timed(self, layers: int, batch: int, steps: int, times: list[StageTime]) -> Iterator[None]:
        self._synchronize()
        self.ranks.barrier()
        for waits in self._waits:
            waits.clear()
        began = time.perf_counter()
        yield
        self._synchronize()
        took = (time.perf_counter() - began) / steps
        self.ranks.barrier()  # what others have still to receive comes from here
        waited = sum(waits.seconds for waits in self._waits) / steps
        times.append(StageTime(self.ranks.rank, layers, batch, took, waited))

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def decoder_times(seat: Seat, folder: str, options: dict[str, Any], load: Load) -> list[StageTime]:
    """In the process of one rank of a decoder."""
    rank = _Rank(seat, folder, options)
    runner = DecoderRunner(rank.model, rank.config, None, rank.ranks)
    rank.loaded()
    lanes, times = rank.ranks.parallel.pipeline, list[StageTime]()
    for batch in load.batches:
        every = admissions_of(runner, batch * lanes, load.tokens, load.length)
        for lane in range(lanes):
            own = every[lane * batch : (lane + 1) * batch]
            runner.launch(decodes_plan(batch, load.length, own, lane)).result()
        plans = [decodes_plan(batch, load.length, [], lane) for lane in range(lanes)]

        def launch(number: int) -> LaunchedStep:
            return runner.launch(plans[number % lanes])  # noqa: B023  # called at once

        _run(launch, lanes, lanes)
        with rank.timed(len(runner.part.layers), batch, load.steps, times):
            _run(launch, load.steps, lanes)
    return times


def _run(launch: Callable[[int], LaunchedStep], steps: int, lanes: int) -> None:
    """As the engine does on a GPU: results are waited for when the next step of each lane is under
    way."""
    in_flight: deque[LaunchedStep] = deque()
    for number in range(steps):
        in_flight.append(launch(number))
        if len(in_flight) > lanes:
            in_flight.popleft().result()
    for step in in_flight:
        step.result()


def encoder_times(seat: Seat, folder: str, options: dict[str, Any], load: Load) -> list[StageTime]:
    """In the process of one rank of an encoder. A stage goes on with the next batch at once."""
    rank = _Rank(seat, folder, options)
    runner = EncoderRunner(rank.model, rank.config, rank.ranks, lambda command: None)
    rank.loaded()
    times: list[StageTime] = []
    for batch in load.batches:
        inputs: list[np.ndarray] = random_inputs(rank.model, batch, load.tokens)
        runner.encode(inputs)
        with rank.timed(runner.part_layers, batch, load.steps, times):
            for _ in range(load.steps):
                runner.encode(inputs)
    return times


def measure(
    folder: str, options: dict[str, Any], encoder: Load, decoder: Load
) -> tuple[list[Row], list[Row]]:
    """Rows of both halves, by stage; none for a half of one rank. Raises ConfigurationError where
    there are too few GPUs."""
    config = resolve(folder, options)
    model = ModelConfig.load(config.model)
    config = fitted(model, config)
    layout = config.layout(config.workers.placement == "colocated")
    most = max(parallel.num_ranks for parallel in layout.values())
    device = _device(model, config, most)
    stages = layout["decoder"].pipeline
    sequences = max(decoder.batches) * stages
    decoder_options = {"max_num_seqs": max(sequences, config.scheduler.max_num_seqs)}
    rows: dict[str, list[Row]] = {"encoder": [], "decoder": []}
    with RankProcesses(most, device) as processes:
        for half, work, load in (
            ("encoder", encoder_times, encoder),
            ("decoder", decoder_times, decoder),
        ):
            parallel = layout.get(half, Parallel())
            if parallel.num_ranks > 1:
                half_options = {**options, **(decoder_options if half == "decoder" else {})}
                results = processes.run(parallel, work, folder, half_options, load)
                rows[half] = stage_rows(
                    half, parallel, [row for rank_rows in results for row in rank_rows]
                )
    return rows["encoder"], rows["decoder"]


def _device(model: ModelConfig, config: EngineConfig, ranks: int) -> Literal["cpu", "cuda"]:
    if Target.resolve(config.model, model.raw, model.family).device.type == "cpu":
        return "cpu"
    if (gpus := torch.cuda.device_count()) < ranks:
        raise ConfigurationError(
            f"{ranks} ranks need a GPU each, and this machine has {gpus}: give smaller sizes, or "
            "device='cpu'"
        )
    return "cuda"


def stage_rows(half: str, parallel: Parallel, times: list[StageTime]) -> list[Row]:
    """One for each batch size and stage, of its first rank.

    `waits_%`: of a step. `ideal_%`: what the slowest stage leaves a faster one to wait for, with as
    many lanes as stages and no time on the way.
    """
    rows: list[Row] = []
    for batch in dict.fromkeys(one.batch for one in times):
        first = [one for one in times if one.batch == batch]
        first = [one for one in first if parallel.tensor_rank_of(one.rank) == 0]
        slowest = max(one.busy for one in first)
        rows += [
            {
                "half": half,
                "layout": f"tensor {parallel.tensor} x pipeline {parallel.pipeline}",
                "stage": parallel.stage_of(one.rank),
                "layers": one.layers,
                "batch": batch,
                "ms": one.step * 1e3,
                "busy_ms": one.busy * 1e3,
                "waits_%": 100 * one.waited / one.step,
                "ideal_%": 100 * (1 - one.busy / slowest),
            }
            for one in first
        ]
    return rows
