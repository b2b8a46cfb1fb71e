"""Sampling's kernels for CPUs against the rules in torch."""

import numpy as np
import pytest
import torch
from kernel_checks import check_beams, check_samples, random_slots

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.cpu_sampler import CpuSampler
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.state import Slots

VOCABULARY, COUNT = 1300, 60  # several blocks, the last one not full
CPU = torch.device("cpu")


def rules_of(seed: int) -> TimestampRules:
    """Some with tokens that were added behind the timestamps, or with a limit for the first."""
    last = {"last_id": 1290} if seed % 2 else {}
    return TimestampRules(1200, 1199, 1150, 4 if seed % 3 else None, **last)


def a_step(
    seed: int, with_beams: bool
) -> tuple[Slots, np.ndarray, torch.Tensor, np.random.Generator]:
    """Sequences in every state that the rules tell apart, their lengths and logits."""
    rng = np.random.default_rng(seed)
    slots = random_slots(rng, rules_of(seed), COUNT, VOCABULARY, 16, with_beams)
    lengths = slots.host["max_len"][:COUNT] - rng.integers(1, 3, COUNT)
    lengths = np.maximum(lengths, slots.host["prompt_len"][:COUNT])
    logits = torch.from_numpy(rng.standard_normal((COUNT, VOCABULARY)).astype(np.float32) * 3)
    logits[:, 1200:] += float(rng.integers(-2, 2))
    logits[rng.random((COUNT, VOCABULARY)) < 0.1] = float("-inf")
    return slots, lengths, logits, rng


@pytest.mark.parametrize("with_rules", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_greedy_sampling_follows_the_rules_as_torch_does(seed: int, with_rules: bool) -> None:
    slots, lengths, logits, _ = a_step(seed, with_beams=False)
    rules = rules_of(seed) if with_rules else None
    rows, own_lengths = torch.arange(COUNT, dtype=torch.int32), torch.from_numpy(lengths)
    before = slots.tokens.clone()
    wanted, actual = (Samples.empty(COUNT, CPU) for _ in range(2))
    Sampler(slots, rules, kernels=False).greedy(logits, rows, own_lengths, wanted)
    tokens = slots.tokens.clone()
    slots.tokens.copy_(before)
    Sampler(slots, rules).greedy(logits, rows, own_lengths, actual)
    raw = wanted.logprobs.isfinite()  # a prescribed token may have logit minus infinity
    assert raw.sum() > COUNT - 20
    check_samples(Samples(actual.packed[raw]), Samples(wanted.packed[raw]))
    assert torch.equal(actual.packed[~raw], wanted.packed[~raw])
    assert torch.equal(slots.tokens, tokens)
    assert (wanted.ranks > 1).any()
    assert (wanted.restricted_logprobs - wanted.logprobs)[raw].abs().max() > 0.1


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("with_rules", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_beams_get_the_candidates_of_torch(seed: int, with_rules: bool, stride: int) -> None:
    slots, lengths, logits, _ = a_step(seed, with_beams=True)
    rules, rows = rules_of(seed) if with_rules else None, np.arange(COUNT)
    logits = logits.repeat_interleave(stride, 0)
    wanted = Sampler(slots, rules, kernels=False).beam_candidates(logits, rows, lengths, stride)
    actual = Sampler(slots, rules).beam_candidates(logits, rows, lengths, stride)
    check_beams(actual, wanted)
    assert wanted is not None
    assert np.isneginf(wanted.on_host().scores).any()


def test_timestamps_beyond_the_vocabulary_write_nothing_there() -> None:
    """Settings of a checkpoint may name ids that its head has no words for."""
    slots, lengths, logits, _ = a_step(0, with_beams=False)
    beyond = TimestampRules(VOCABULARY + 5, VOCABULARY + 4, VOCABULARY + 2, None)
    samples = Samples.empty(COUNT, CPU)
    whole = torch.cat([logits, torch.zeros(1, VOCABULARY)])
    rows = torch.arange(COUNT)
    Sampler(slots, beyond).greedy(whole[:COUNT], rows, torch.from_numpy(lengths), samples)
    assert not whole[COUNT:].any()
    assert ((samples.tokens >= 0) & (samples.tokens < VOCABULARY)).all()


def test_steps_of_beams_alone_choose_no_token() -> None:
    """What greedy decoding would take for them, the host replaces."""
    slots, lengths, logits, _ = a_step(0, with_beams=True)
    sampler, samples = Sampler(slots, None), Samples.empty(COUNT, CPU)
    own = torch.from_numpy(slots.host.rows_asking("beams", np.arange(COUNT)))
    step = torch.from_numpy(lengths)[own], samples.first(len(own))
    before = slots.tokens.clone()
    sampler.greedy(logits[own], own, *step, sampler.features(own.numpy()))
    assert torch.equal(slots.tokens, before)
    sampler.greedy(logits[own], own, *step)  # for all that it knows, some row samples
    assert not torch.equal(slots.tokens, before)


def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary() -> None:
    slots = random_slots(np.random.default_rng(0), TimestampRules(60, 59, 50, None), 3, 90, 16)
    logits = torch.full((3, 90), float("nan"))
    logits[1:] = float("-inf")
    rows, samples = torch.arange(3), Samples.empty(3, CPU)
    CpuSampler(slots, None).greedy(logits, rows, torch.full((3,), 9), samples)
    assert ((samples.tokens >= 0) & (samples.tokens < 90)).all()
