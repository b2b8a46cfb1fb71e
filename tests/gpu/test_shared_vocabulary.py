"""On CUDA devices: ranks that share the vocabulary choose by kernels what one rank chooses in torch
on a CPU, in captured graphs too. The ranks are threads that use one device; as processes they are
in tests/multi_gpu.

python -m pytest -m gpu tests/gpu/test_shared_vocabulary.py
"""

import pytest
import torch
from thread_group import ThreadGroup, run_ranks

pytest.importorskip("triton")

from shared_vocabulary import Batch, check_alike

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.readouts import DeviceReadouts
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.vocabulary import VocabularyShard
from antiphon.kernels.sampling import BLOCK
from antiphon.layers.shard import Shard
from antiphon.runtime.groups import Alone

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
    replayed = batch.captured(batch.logits(), Shard(_Echo()), GPU)
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
