"""On a CUDA device: the kernels of sampling against the rules in torch on a CPU.

python -m pytest -m gpu tests/gpu/test_sampling.py
"""

import numpy as np
import pytest
import torch
from kernel_checks import check_samples, random_slots

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.state import Slots

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(slots: Slots, count: int, vocabulary: int) -> Slots:
    """A copy of `slots` there."""
    copied = Slots(count, slots.tokens.shape[1] - 1, vocabulary, torch.device("cuda"))
    copied.tokens.copy_(slots.tokens)
    copied.stop_ids.copy_(slots.stop_ids)
    copied.masks.rows.copy_(slots.masks.rows)
    for name, row in slots.on_device.items():
        copied.on_device[name].copy_(row)
    return copied


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 64, 300])
@pytest.mark.parametrize("with_rules", [False, True])
def test_greedy_sampling(seed: int, count: int, with_rules: bool) -> None:
    """Whisper's vocabulary; sequences in every state that the timestamp rules tell apart."""
    rng, vocabulary = np.random.default_rng(seed), 51866
    last = {"last_id": 51_800} if seed % 2 else {}  # tokens were added behind the timestamps
    rules = TimestampRules(
        first_id=50365, no_timestamps_id=50364, end_id=50257, max_initial=50, **last
    )
    on_cpu = random_slots(rng, rules, count, vocabulary, max_len=448)
    there = on_gpu(on_cpu, count, vocabulary)
    lengths = torch.from_numpy(on_cpu.host["max_len"][:count].astype(np.int32)) - 1
    rows = torch.arange(count, dtype=torch.int32)
    logits = torch.from_numpy(rng.standard_normal((count, vocabulary)).astype(np.float32) * 3)
    logits[:, rules.first_id :] += 2.0
    wanted, actual = (Samples.empty(count, torch.device(name)) for name in ("cpu", "cuda"))
    applied = rules if with_rules else None
    Sampler(on_cpu, applied).greedy(logits, rows, lengths, wanted)
    Sampler(there, applied).greedy(logits.cuda(), rows.cuda(), lengths.cuda(), actual)
    check_samples(actual, wanted)
    assert torch.equal(there.tokens.cpu(), on_cpu.tokens)
