"""What the ranks of a replica exchange, as processes do it in tests with real groups: they run by
`RankProcesses`. Every number is a small integer, which all precisions hold: sums are exact.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from antiphon.benchmarks.rank_processes import HOST, Seat
from antiphon.runtime.joining import join, limit_waiting
from antiphon.runtime.nccl_group import NcclGroup
from antiphon.runtime.ranks import RankError, Ranks
from antiphon.runtime.symmetric_memory import SUMMED_NORM_BYTES

HIDDEN = 1280
ROWS = (1, 7, 64, 128, 300, 512, 1500)  # of all ways to sum
LANES = 2
_KEPT: list[Any] = []  # a graph that hangs is better not destroyed


@contextmanager
def joined(seat: Seat, device: str, norm_bytes: int = SUMMED_NORM_BYTES) -> Iterator[Ranks]:
    """Until all of them leave, or this one fails."""
    ranks = join(seat.spec, seat.address, HOST, torch.device(device), norm_bytes)
    limit_waiting(ranks, seat.spec)
    try:
        yield ranks
        ranks.barrier()
    finally:
        ranks.close()


def base(rows: int, dtype: torch.dtype, device: str, hidden: int = HIDDEN) -> torch.Tensor:
    """The same on all ranks: whole numbers from -2 to 2."""
    numbers = torch.arange(rows * hidden) * 7919 % 5 - 2
    return numbers.view(rows, hidden).to(device, dtype)


@torch.inference_mode()
def summed(seat: Seat, device: str, dtype: torch.dtype) -> dict[int, float]:
    """The largest error of sums, by rows; each call is eager, and right behind others."""
    with joined(seat, device) as ranks:
        group, errors = ranks.tensor, dict[int, float]()
        factor = group.size * (group.size + 1) / 2
        for rows in ROWS:
            x = base(rows, dtype, device)
            sums = [group.all_reduce(x * (group.rank + 1) * times) for times in (1, 2, 3)]
            wanted = [x.float() * factor * times for times in (1, 2, 3)]
            pairs = zip(sums, wanted, strict=True)
            errors[rows] = max(float((own.float() - right).abs().max()) for own, right in pairs)
            assert all(own.dtype == dtype and own.shape == x.shape for own in sums)
        return errors


@torch.inference_mode()
def same_bits(seat: Seat, device: str, dtype: torch.dtype) -> tuple[bool, float]:
    """Of random numbers: whether all ranks have the same sums, and how far those are from sums in
    float32, in units of the last place of the largest number."""
    with joined(seat, device) as ranks:
        group, is_same, error = ranks.tensor, True, 0.0
        for rows in ROWS:
            generator = torch.Generator().manual_seed(rows)
            every = torch.randn(group.size, rows, HIDDEN, generator=generator).to(device, dtype)
            own = group.all_reduce(every[group.rank].clone())
            of_all = group.all_gather(own)
            is_same &= bool((of_all == own).all())
            right = every.float().sum(0)
            unit = torch.finfo(dtype).eps * float(right.abs().max())
            error = max(error, float((own.float() - right).abs().max()) / unit)
        return is_same, error


@torch.inference_mode()
def replayed(seat: Seat, dtype: torch.dtype, replays: int) -> dict[str, Any]:
    """Sums in a CUDA graph, of several shapes one after the other, with new numbers each time."""
    with joined(seat, "cuda") as ranks:
        group = ranks.tensor
        assert isinstance(group, NcclGroup)
        factor = group.size * (group.size + 1) / 2
        bases = [base(rows, dtype, "cuda") for rows in ROWS]
        inputs = [torch.zeros_like(x) for x in bases]
        for x in inputs:
            group.all_reduce(x.clone())
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        ranks.graphs.append(graph)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            sums = [group.all_reduce(x.clone()) for x in inputs]
        error = torch.zeros((), device="cuda")
        for number in range(replays):
            times = number % 3 + 1
            for x, fixed in zip(inputs, bases, strict=True):
                torch.mul(fixed, (group.rank + 1) * times, out=x)
            graph.replay()
            for own, fixed in zip(sums, bases, strict=True):
                wrong = (own.float() - fixed.float() * factor * times).abs().max()
                error = torch.maximum(error, wrong)
        done = torch.cuda.Event()
        done.record()
        ranks.limit.wait(done, "the replays")
        return {"error": float(error), "small sums": group.small_sum is not None}


@torch.inference_mode()
def normed(seat: Seat, dtype: torch.dtype, replays: int) -> dict[str, Any]:
    """Norms that sum over the ranks, eagerly and in a CUDA graph: the largest errors of the stream,
    which is exact, and of its norm; and whether all ranks have the same bits."""
    from antiphon.kernels.summed_norm import summed_norm

    with joined(seat, "cuda", norm_bytes=1 << 30) as ranks:
        group, errors, is_same = ranks.tensor, [0.0, 0.0], True
        factor = group.size * (group.size + 1) / 2
        gains = torch.rand(HIDDEN, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
        # Widths whose parts are few packets, too.
        sizes = [(count, HIDDEN) for count in ROWS] + [(1, 384), (64, 1152), (65, 384), (64, 72)]
        rows = [base(count, dtype, "cuda", width) for count, width in sizes]
        terms = [torch.zeros_like(x) for x in rows]

        def work() -> list[tuple[torch.Tensor, ...]]:
            results = list[tuple[torch.Tensor, ...]]()
            for x, term in zip(rows, terms, strict=True):
                shared = group.shared_rows(term)
                assert shared is not None
                weight = gains[: x.shape[1]]
                results.append(summed_norm(x, term, weight, weight, 1e-5, shared)[:2])
            return results

        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        ranks.graphs.append(graph)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = work()
        for number in range(replays):
            times = number % 3 + 1
            for x, term in zip(rows, terms, strict=True):
                torch.mul(x, (group.rank + 1) * times, out=term)
            if number % 10:
                graph.replay()
            now = results if number % 10 else work()
            for x, (total, out) in zip(rows, now, strict=True):
                right = x.float() * (1 + factor * times)
                weight = gains[: x.shape[1]].float()
                wanted = torch.nn.functional.layer_norm(right, weight.shape, weight, weight, 1e-5)
                errors[0] = max(errors[0], float((total.float() - right).abs().max()))
                errors[1] = max(errors[1], float((out.float() - wanted).abs().max()))
        for _, out in results:
            is_same &= bool((group.all_gather(out) == out).all())
        return {"stream": errors[0], "norm": errors[1], "same bits": is_same}


@torch.inference_mode()
def passed_on(seat: Seat, device: str, steps: int) -> float:
    """A pipeline's traffic: the stream from stage to stage, and tokens back to the first stage,
    which is ahead by a step for each lane. The largest error that this rank sees."""
    with joined(seat, device) as ranks:
        stages, backward = ranks.stages, ranks.backward
        last, error = stages.size - 1, torch.zeros((), device=device)
        x, tokens = torch.zeros(512, HIDDEN, device=device), torch.zeros(64, device=device)

        def check(own: torch.Tensor, right: float) -> None:
            nonlocal error
            error = torch.maximum(error, (own - right).abs().max())

        for step in range(steps):
            if stages.rank == 0:
                if step >= LANES:
                    backward.receive(tokens, last)
                    check(tokens, step - LANES + 0.5)
                x.fill_(step)
            else:
                stages.receive(x, stages.rank - 1)
                check(x, step)
            if stages.rank < last:
                stages.send(x, stages.rank + 1)
            else:
                tokens.fill_(step + 0.5)
                backward.send(tokens, 0)
        for step in range(steps - LANES, steps):
            if stages.rank == 0:
                backward.receive(tokens, last)
                check(tokens, step + 0.5)
        return float(error)


@torch.inference_mode()
def left_waiting(seat: Seat, device: str, rows: int) -> tuple[str, float]:
    """The last rank never comes to a sum: what the others hear, and after how many seconds. On a
    GPU it is replayed from a graph, of which torch's watchdog knows nothing."""
    ranks = join(seat.spec, seat.address, HOST, torch.device(device))
    limit_waiting(ranks, seat.spec)
    x = torch.zeros(rows, HIDDEN, device=device)
    ranks.tensor.all_reduce(x)
    graph = None
    if device == "cuda":
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            ranks.tensor.all_reduce(x)
    _KEPT.append((ranks, graph, x))
    ranks.barrier()
    if seat.spec.rank == ranks.parallel.num_ranks - 1:
        time.sleep(2 * seat.spec.timeout)
        return "", 0.0
    began = time.monotonic()
    try:
        if graph is None:
            ranks.tensor.all_reduce(x)
        else:
            graph.replay()
            done = torch.cuda.Event()
            done.record()
            _KEPT.append(done)
            ranks.limit.wait(done, "a step")
    except RankError as error:
        return str(error), time.monotonic() - began
    return "no error", 0.0
