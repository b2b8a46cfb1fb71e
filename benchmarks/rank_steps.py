"""Steps and encoder batches of replicas of several ranks, without Ray, and what bounds them.

Each function is what one rank does: `RankProcesses` runs it on all of them. Times are of the rank
that returns them.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from antiphon.benchmarks import profiles
from antiphon.benchmarks.machine import Machine, measure
from antiphon.benchmarks.rank_processes import HOST, Seat
from antiphon.benchmarks.steps import (
    Work,
    admissions_of,
    bytes_per_step,
    decodes_plan,
    seconds_with_host,
)
from antiphon.config.options import resolve
from antiphon.decoder.runner import DecoderRunner
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.joining import join
from antiphon.runtime.ranks import Ranks
from antiphon.runtime.symmetric_memory import SUMMED_NORM_BYTES
from antiphon.scheduler.plan import StepPlan

WARM_UPS = 5
KERNELS = 8  # of a profile, the longest first
Options = dict[str, Any]
Figures = dict[str, Any]


def joined(seat: Seat, device: str, norm_bytes: int = SUMMED_NORM_BYTES) -> Ranks:
    return join(seat.spec, seat.address, HOST, torch.device(device), norm_bytes)


def machine(seat: Seat, device: str) -> Figures:
    """The fields of `Machine` for this rank's device; of a CPU, numbers that stand for none."""
    if device == "cuda":
        return asdict(measure())
    return asdict(Machine("CPU", torch.__version__, 1e10, 1e11, 1))


def links(seat: Seat, device: str, rows: list[int], width: int) -> Figures:
    """Seconds of an all-reduce of [rows, width] in the ranks' dtype, by rows, as steps have them;
    and bytes per second from one rank to the next."""
    ranks = joined(seat, device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    reduces = {}
    for count in rows:
        x = torch.zeros(count, width, dtype=dtype, device=device)

        def reduce(x: torch.Tensor = x) -> None:
            ranks.tensor.all_reduce(x)

        reduces[str(count)] = _seconds_of_many(reduce, ranks, device)
    size = (256 if device == "cuda" else 1) << 20
    block, first = torch.zeros(size, dtype=torch.uint8, device=device), ranks.tensor.rank == 0

    def pass_on() -> None:
        if first:
            ranks.tensor.send(block, 1)
        elif ranks.tensor.rank == 1:
            ranks.tensor.receive(block, 0)

    rate = size / _seconds(pass_on, ranks, device, 10)
    ranks.barrier()
    ranks.close()
    return {"reduce_s": reduces, "link_bytes_per_s": rate}


def _seconds_of_many(work: Callable[[], None], ranks: Ranks, device: str, count: int = 20) -> float:
    """Of one of `count` calls, on a GPU captured in one graph."""
    if device == "cpu":
        began = time.perf_counter()
        for _ in range(count):
            work()
        return (time.perf_counter() - began) / count
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            work()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    ranks.graphs.append(graph)
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):  # NCCL's threads
        for _ in range(count):
            work()
    return _device_seconds(graph.replay, 20) / count


def _device_seconds(work: Callable[[], None], count: int) -> float:
    """Of one of `count` calls on the device, queued one behind the other."""
    for _ in range(WARM_UPS):
        work()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(count):
        work()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1e3 / count


def _seconds(work: Callable[[], Any], ranks: Ranks, device: str, count: int) -> float:
    """Median time of `work` until its device is done, begun together on all ranks."""
    took = []
    for number in range(WARM_UPS + count):
        ranks.barrier()
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= WARM_UPS:
            took.append(time.perf_counter() - began)
    return float(np.median(took))


def decoder(
    seat: Seat,
    folder: Path,
    options: Options,
    batches: list[int],
    lengths: tuple[int, int],
    steps: int,
    trace: Path | None = None,
    norm_bytes: int = SUMMED_NORM_BYTES,
) -> Figures:
    """Steps of so many sequences, by `batches`. `lengths`: encoder and decoder tokens of each.
    One stage alone. `norm_bytes`: of sums that norms make."""
    cross_len, length = lengths
    began = time.perf_counter()
    ranks = joined(seat, options["device"], norm_bytes)
    config = resolve(str(folder), options)
    model = ModelConfig.load(config.model)
    runner = DecoderRunner(model, config, None, ranks)
    figures: Figures = {"ready_s": time.perf_counter() - began}
    half, size = model.decoder, runner.pool.dtype.itemsize
    heads = runner.part.shard.heads_of(half).kv.count
    token_bytes = 2 * half.num_layers * heads * half.head_dim * size
    for batch in batches:
        runner.launch(
            decodes_plan(batch, length, admissions_of(runner, batch, cross_len, length))
        ).result()
        ranks.barrier()
        figures[str(batch)] = {
            **_step_seconds(runner, batch, length, steps),
            "bytes": bytes_per_step(runner) + batch * (cross_len + length) * token_bytes,
        }
        if trace is not None:
            step = partial(_launch_and_wait, runner, decodes_plan(batch, length, []))
            path = trace.with_name(f"{trace.name}-{batch}-sequences.json.gz")
            profile(step, path, ranks, figures)
    ranks.barrier()
    ranks.close()
    return figures


def _launch_and_wait(runner: DecoderRunner, plan: StepPlan) -> None:
    runner.launch(plan).result()


def _step_seconds(runner: DecoderRunner, batch: int, length: int, steps: int) -> Figures:
    """`step_s`: with the host's work, launched one step ahead as the engine does; `graph_s`: what
    the device alone needs, where steps run in graphs."""
    plan = decodes_plan(batch, length, [])
    for _ in range(WARM_UPS):
        runner.launch(plan).result()
    figures: Figures = {"step_s": seconds_with_host(runner, plan, steps)}
    if runner.graphs is not None and (shape := runner.choose_graph(plan).shape) is not None:
        graphs, inputs = runner.graphs, runner.inputs.fill(plan, shape)
        figures["graph_s"] = _device_seconds(lambda: graphs.replay(inputs), steps)
    return figures


def encoder(
    seat: Seat,
    folder: Path,
    options: Options,
    batches: list[int],
    tokens: int,
    steps: int,
    trace: Path | None = None,
) -> Figures:
    """From samples or ids on the host to hidden states, by `batches`. `tokens`: of a text."""
    began = time.perf_counter()
    ranks = joined(seat, options["device"])
    config = resolve(str(folder), options)
    model = ModelConfig.load(config.model)
    half = model.encoder
    assert half is not None
    runner = EncoderRunner(model, config, ranks, lambda command: None)
    figures: Figures = {"ready_s": time.perf_counter() - began}
    rng = np.random.default_rng(0)
    for batch in batches:
        if model.audio is not None:
            window, tokens = model.audio.window, model.audio.tokens
            inputs = [rng.standard_normal(window).astype(np.float32) for _ in range(batch)]
        else:
            inputs = [rng.integers(3, half.vocab_size, tokens).astype(np.int32)] * batch
        work = Work.of(half, tokens)
        encode = partial(runner.encode, inputs)
        took = _seconds(encode, ranks, options["device"], steps)
        operations = batch * (work.linear + work.attention) / seat.spec.parallel.num_ranks
        figures[str(batch)] = {"encode_s": took, "operations": operations}
        if trace is not None:
            path = trace.with_name(f"{trace.name}-{batch}-inputs.json.gz")
            profile(encode, path, ranks, figures)
    ranks.barrier()
    ranks.close()
    return figures


def profile(work: Callable[[], Any], path: Path, ranks: Ranks, figures: Figures) -> None:
    """A trace of some calls on the leader, in `path`; its longest kernels, in microseconds a call,
    go into `figures["profiles"]`."""
    if not ranks.is_leader:
        for _ in range(profiles.PROFILED):
            work()
        return
    trace = profiles.traced(work)
    trace.export_chrome_trace(str(path))
    name = path.name.partition(".")[0]
    figures.setdefault("profiles", {})[name] = [
        [kernel.name, round(kernel.us, 1)] for kernel in profiles.kernels(trace)[:KERNELS]
    ]
