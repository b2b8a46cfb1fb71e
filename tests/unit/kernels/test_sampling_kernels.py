"""The Triton kernels of sampling in Triton's interpreter, against the rules in torch."""

from typing import Any

import numpy as np
import pytest
import torch
from kernel_checks import check_samples, random_slots

pytest.importorskip("triton")

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.kernels import sampling

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
VOCABULARY, COUNT = 90, 40


def more(*values: int | bool) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("seed", "block", "with_rules"),
    [
        (0, 4096, True),
        (1, 4096, False),
        (5, 32, True),
        (6, 32, False),
        *(more(seed, 4096, False) for seed in (0, 2, 3, 4)),
        *(more(seed, 4096, True) for seed in (1, 2, 3, 4)),
        more(5, 32, False),
        more(6, 32, True),
    ],
)
def test_greedy_sampling_follows_the_rules_as_torch_does(
    seed: int,
    block: int,
    with_rules: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A vocabulary of several blocks, the last one not full, or of one."""
    monkeypatch.setattr(sampling, "BLOCK", block)
    rng = np.random.default_rng(seed)
    max_initial = 4 if seed % 3 else None
    last = {"last_id": 80} if seed % 2 else {}  # 80: nine tokens were added behind the timestamps
    rules = TimestampRules(
        first_id=60, no_timestamps_id=59, end_id=50, max_initial=max_initial, **last
    )
    slots = random_slots(rng, rules, COUNT, VOCABULARY, max_len=16)
    lengths = torch.from_numpy(slots.host["max_len"][:COUNT].astype(np.int32)) - 1
    lengths -= torch.from_numpy(rng.integers(0, 2, COUNT).astype(np.int32))
    prompt_lens = torch.from_numpy(slots.host["prompt_len"][:COUNT].astype(np.int32))
    lengths = torch.maximum(lengths, prompt_lens)
    rows = torch.arange(COUNT, dtype=torch.int32)
    logits = torch.from_numpy(rng.standard_normal((COUNT, VOCABULARY)).astype(np.float32) * 3)
    logits[:, rules.first_id :] += float(rng.integers(-2, 2))
    before = slots.tokens.clone()
    sampler = Sampler(slots, rules if with_rules else None)
    wanted, actual = (Samples.empty(COUNT, torch.device("cpu")) for _ in range(2))
    sampler.greedy(logits, rows, lengths, wanted)
    tokens_wanted = slots.tokens.clone()
    slots.tokens.copy_(before)
    room = sampling.workspace(COUNT, VOCABULARY, torch.device("cpu"))
    assert room[0].shape[1] == (3 if block == 32 else 1)
    sampler.greedy_by_kernels(logits, rows, lengths, actual, room)
    check_samples(actual, wanted)
    assert torch.equal(slots.tokens, tokens_wanted)
    assert len(set(wanted.tokens.tolist())) > 10
    assert (wanted.ranks > 1).any()
    assert (wanted.ranks == 0).any()
    assert (wanted.restricted_logprobs - wanted.logprobs).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary() -> None:
    """On a GPU, one outside would end the process where it is looked up."""
    slots = random_slots(np.random.default_rng(0), TimestampRules(60, 59, 50, None), 3, 90, 16)
    samples = Samples.empty(3, torch.device("cpu"))
    logits = torch.full((3, VOCABULARY), float("nan"))
    logits[1:] = float("-inf")
    rows, lengths = torch.arange(3, dtype=torch.int32), torch.full((3,), 9, dtype=torch.int32)
    room = sampling.workspace(3, VOCABULARY, torch.device("cpu"))
    Sampler(slots, None).greedy_by_kernels(logits, rows, lengths, samples, room)
    assert (samples.tokens >= 0).all()
    assert (samples.tokens < VOCABULARY).all()
