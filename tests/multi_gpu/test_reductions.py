"""What ranks exchange: sums by every way and in every precision, the links of stages, and the end
of waiting. On as many GPUs as there are, and on CPUs."""

from collections.abc import Iterator

import pytest
import torch
from rank_exchanges import ROWS, left_waiting, normed, passed_on, replayed, same_bits, summed

from antiphon.benchmarks.rank_processes import RankProcesses
from antiphon.config.parallel import Parallel

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
CPU_RANKS, TIMEOUT = 3, 4.0


def count(device: str) -> int:
    return torch.cuda.device_count() if device == "cuda" else CPU_RANKS


@pytest.fixture(scope="module")
def processes(device: str) -> Iterator[RankProcesses]:
    """As many as there are GPUs; all of them in every run, as torch's shared memory asks."""
    with RankProcesses(count(device), device) as processes:
        yield processes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_exact_where_numbers_are(
    processes: RankProcesses, device: str, dtype: torch.dtype
) -> None:
    parallel = Parallel(processes.count)
    assert processes.run(parallel, summed, device, dtype) == [dict.fromkeys(ROWS, 0.0)] * (
        processes.count
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_ranks_have_the_same_bits(
    processes: RankProcesses, device: str, dtype: torch.dtype
) -> None:
    """Each addition may round once."""
    for is_same, error in processes.run(Parallel(processes.count), same_bits, device, dtype):
        assert is_same
        assert error <= processes.count


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_in_a_graph_stay_right(
    processes: RankProcesses, device: str, dtype: torch.dtype
) -> None:
    if device == "cpu":
        pytest.skip("there are no CUDA graphs on CPUs")
    results = processes.run(Parallel(processes.count), replayed, dtype, 1000)
    assert results == [{"error": 0.0, "small sums": True}] * processes.count


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_sum_over_ranks(processes: RankProcesses, device: str, dtype: torch.dtype) -> None:
    if device == "cpu":
        pytest.skip("in Triton's interpreter: tests/unit/kernels/test_summed_norm.py")
    for seen in processes.run(Parallel(processes.count), normed, dtype, 301):
        assert seen["stream"] == 0.0
        assert seen["same bits"]
        assert seen["norm"] <= (1e-4 if dtype == torch.float32 else 0.03)


def test_stages_pass_on_in_both_directions_at_once(processes: RankProcesses, device: str) -> None:
    parallel = Parallel(1, processes.count)
    assert processes.run(parallel, passed_on, device, 100) == [0.0] * processes.count


@pytest.mark.parametrize("rows", [64, 1500], ids=["small sum", "large sum"])
def test_a_rank_that_never_comes_is_not_waited_for(device: str, rows: int) -> None:
    with RankProcesses(count(device), device) as processes:
        parallel = Parallel(processes.count)
        heard = processes.run(parallel, left_waiting, device, rows, collective_timeout=TIMEOUT)
    for message, seconds in heard[:-1]:
        assert "collective_timeout" in message
        assert seconds < 2 * TIMEOUT
