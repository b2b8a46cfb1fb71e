"""On CUDA devices: ranks that share the vocabulary choose by kernels what one rank chooses in torch
on a CPU, in captured graphs too. The ranks of the first tests are threads that use one device.

python -m pytest -m "gpu or multi_gpu" tests/gpu/test_shared_vocabulary.py
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from thread_group import ThreadGroup, run_ranks

pytest.importorskip("triton")

from shared_vocabulary import Batch, captured_on_gpu, check_alike

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.parallel import Parallel, RankSpec
from antiphon.decoder.readouts import DeviceReadouts
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.vocabulary import VocabularyShard
from antiphon.kernels.sampling import BLOCK
from antiphon.layers.shard import Shard
from antiphon.runtime.groups import Alone
from antiphon.runtime.joining import open_store

WHISPER = TimestampRules(
    first_id=50365, no_timestamps_id=50364, end_id=50257, max_initial=50, last_id=51_800
)
GPU = torch.device("cuda")
needs_one = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def batch_of(seed: int, count: int, rules: TimestampRules | None) -> Batch:
    return Batch(seed, rules, count, 51866, BLOCK)


@needs_one
@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("count", [1, 64, 300])
@pytest.mark.parametrize("rules", [None, WHISPER])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_that_are_threads(
    ranks: int, count: int, rules: TimestampRules | None, dtype: torch.dtype
) -> None:
    batch = batch_of(ranks, count, rules)
    logits = batch.logits(barred=0.01).to(dtype)
    wanted = batch.by_torch(logits)

    def work(group: ThreadGroup) -> Samples:
        return batch.by_kernels(logits, Shard(group), GPU)

    check_alike(batch.by_kernels(logits, device=GPU), wanted)
    for samples in run_ranks(ranks, work):
        check_alike(samples, wanted)


class _Echo(Alone):
    """A rank whose partner says the same: enough to capture one."""

    size = 2

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x, x])


@needs_one
@pytest.mark.gpu
def test_the_kernels_of_a_rank_in_a_graph() -> None:
    """Replayed with other logits it chooses the likeliest of its own words."""
    batch = batch_of(5, 64, WHISPER)
    _, replayed = batch.captured(batch.logits(), Shard(_Echo()), GPU)
    check_alike(replayed, batch.by_kernels(batch.logits(), Shard(_Echo()), GPU))
    assert len(set(replayed.tokens.tolist())) > 20


@needs_one
@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_readouts_of_ranks_that_are_threads(ranks: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(70, 51866) * 3).to(dtype)
    asked = torch.randint(-2, 51868, (70,), dtype=torch.int32)
    wanted = DeviceReadouts.empty(70, torch.device("cpu"))
    wanted.read(logits, asked)

    def work(group: ThreadGroup) -> DeviceReadouts:
        words, readouts = VocabularyShard(51866, Shard(group)), DeviceReadouts.empty(70, GPU)
        readouts.read(logits.to(GPU)[:, words.span.slice], asked.to(GPU), words)
        return readouts

    for readouts in run_ranks(ranks, work):
        torch.testing.assert_close(readouts.logprobs.cpu(), wanted.logprobs, atol=2e-5, rtol=1e-5)
        assert torch.equal(readouts.likeliest.cpu(), wanted.likeliest)


@pytest.mark.multi_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("rules", [None, WHISPER])
def test_an_exchange_inside_a_graph(rules: TimestampRules | None) -> None:
    """Two processes, NCCL, captured and replayed."""
    batch = batch_of(7, 64, rules)
    wanted = batch.by_torch(batch.logits())
    store, address = open_store("127.0.0.1")
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(2)]
    try:
        futures = [
            pool.submit(captured_on_gpu, RankSpec(Parallel(2), rank, 60, 120), address, batch)
            for rank, pool in enumerate(pools)
        ]
        for future in futures:
            check_alike(Samples(torch.from_numpy(future.result(240))), wanted)
    finally:
        for pool in pools:
            pool.shutdown()
        del store
