"""The Triton kernels of sampling in Triton's interpreter, against the rules in torch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_checks import check_beams, check_samples, random_slots
from sampling_steps import kernel_sampler

pytest.importorskip("triton")

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.settings import GRAPH_FEATURES
from antiphon.kernels import sampling

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
VOCABULARY, COUNT, BEAMS = 90, 40, 20
GRAPH_FEATURES_OF_BEAMS = replace(GRAPH_FEATURES, ranks=False, beams=True)


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
    sampler = Sampler(slots, rules if with_rules else None, kernels=False)
    wanted, actual = (Samples.empty(COUNT, torch.device("cpu")) for _ in range(2))
    sampler.greedy(logits, rows, lengths, wanted)
    tokens_wanted = slots.tokens.clone()
    slots.tokens.copy_(before)
    kernels = kernel_sampler(sampler, COUNT)
    assert kernels.room.stats.shape[1] == (3 if block == 32 else 1)
    kernels.greedy(logits, rows, lengths, actual)
    check_samples(actual, wanted)
    assert torch.equal(slots.tokens, tokens_wanted)
    assert len(set(wanted.tokens.tolist())) > 10
    assert (wanted.ranks > 1).any()
    assert (wanted.ranks == 0).any()
    assert (wanted.restricted_logprobs - wanted.logprobs).abs().max() > 0.1


@pytest.mark.parametrize(
    ("seed", "block", "with_rules", "stride"),
    [
        (0, 32, True, 1),
        (1, 4096, True, 2),
        *(more(seed, 32, seed != 2, 1 + seed % 2) for seed in (2, 3, 4, 5)),
    ],
)
def test_beams_get_the_candidates_of_torch(
    seed: int, block: int, with_rules: bool, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stride`: greedy decoding has seen other rows between these, which are of drafts."""
    monkeypatch.setattr(sampling, "BLOCK", block)
    rng = np.random.default_rng(seed)
    rules = TimestampRules(60, 59, 50, 4 if seed % 3 else None, **({"last_id": 80} if seed else {}))
    slots = random_slots(rng, rules, BEAMS, VOCABULARY, max_len=16, with_beams=True)
    lengths = slots.host["max_len"][:BEAMS] - rng.integers(1, 3, BEAMS)
    lengths = np.maximum(lengths, slots.host["prompt_len"][:BEAMS])
    logits = torch.from_numpy(rng.standard_normal((BEAMS, VOCABULARY)).astype(np.float32) * 3)
    logits[:, rules.first_id :] += float(rng.integers(-2, 2))
    rows, sampler = np.arange(BEAMS), Sampler(slots, rules if with_rules else None, kernels=False)
    wanted = sampler.beam_candidates(logits, rows, lengths)
    assert wanted is not None
    assert wanted.on_host().ids.shape[1] == 15
    assert np.isneginf(wanted.on_host().scores).any()

    kernels = kernel_sampler(sampler, BEAMS * stride)
    between = logits.repeat_interleave(stride, 0)
    samples = Samples.empty(len(between), torch.device("cpu"))
    own_rows, own_lengths = torch.from_numpy(rows).int(), torch.from_numpy(lengths).int()
    kernels.greedy(
        between, *(one.repeat_interleave(stride) for one in (own_rows, own_lengths)), samples
    )
    asking = slots.host.rows_asking("beams", rows)
    assert 10 < len(asking) < BEAMS
    check_beams(kernels.beam_candidates(between, rows, lengths, asking, 15, stride), wanted)


def test_beams_that_ask_for_more_are_left_to_torch() -> None:
    slots = random_slots(np.random.default_rng(0), TimestampRules(60, 59, 50, None), 3, 90, 16)
    kernels = kernel_sampler(Sampler(slots, None), 3)
    assert kernels.knows_beams(GRAPH_FEATURES_OF_BEAMS, 64)
    for feature in ("penalties", "ngrams", "bad_words", "ranks"):
        assert not kernels.knows_beams(replace(GRAPH_FEATURES_OF_BEAMS, **{feature: True}), 64)
    assert not kernels.knows_beams(GRAPH_FEATURES_OF_BEAMS, 65)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary() -> None:
    """On a GPU, one outside would end the process where it is looked up."""
    slots = random_slots(np.random.default_rng(0), TimestampRules(60, 59, 50, None), 3, 90, 16)
    samples = Samples.empty(3, torch.device("cpu"))
    logits = torch.full((3, VOCABULARY), float("nan"))
    logits[1:] = float("-inf")
    rows, lengths = torch.arange(3, dtype=torch.int32), torch.full((3,), 9, dtype=torch.int32)
    kernel_sampler(Sampler(slots, None), 3).greedy(logits, rows, lengths, samples)
    assert (samples.tokens >= 0).all()
    assert (samples.tokens < VOCABULARY).all()
