"""Ranks that share the vocabulary choose the tokens that one rank chooses, and exchange a few
numbers a row."""

from typing import Any

import numpy as np
import pytest
import torch
from kernel_checks import random_slots
from sampling_steps import all_of, greedy_by_kernels
from thread_group import TakingTurns, ThreadGroup, run_ranks

from antiphon.benchmarks.host_work import SamplingWork
from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.readouts import DeviceReadouts
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.vocabulary import VocabularyShard
from antiphon.decoder.state import Slots
from antiphon.kernels.formats import ROW_NUMBERS
from antiphon.layers.shard import Shard, Span
from antiphon.scheduler.plan import Admission

CPU = torch.device("cpu")
RULES = TimestampRules(first_id=60, no_timestamps_id=59, end_id=50, max_initial=4, last_id=80)
VOCABULARY, COUNT = 90, 40
RANKS = [2, 3, 4]
GRAPH = {"suppress": (1, 2), "min_tokens": 3, "stop_ids": (5, 7)}
ASKING: list[tuple[dict, dict]] = [
    ({}, {}),
    ({}, GRAPH),
    ({"logprobs": 0}, GRAPH),
    ({"logprobs": 3}, {}),
    ({"logprob_token_ids": (3, 29)}, {}),
    ({"temperature": 1.0}, {}),
    ({"temperature": 0.8, "top_p": 0.9, "top_k": 5, "logprobs": 1}, GRAPH),
    ({"repetition_penalty": 2.0, "logit_bias": {4: 2.0, 28: 1.0}}, {}),
    ({"presence_penalty": 1.5, "frequency_penalty": 0.5}, GRAPH),
    ({}, {"no_repeat_ngram": 2, "bad_words": ((4, 6),)}),
    ({"allowed_token_ids": (29,)}, {}),  # on all ranks but the last, nothing is allowed
    ({"allowed_token_ids": (0, 3)}, {}),
    ({}, {"forced_first": 28}),
    ({}, {"timestamps": TimestampRules(20, 19, 18, 3)}),
]


def slots_of(span: Span | None, vocabulary: int = 30) -> Slots:
    slots = Slots(len(ASKING), 24, vocabulary, CPU, vocabulary=span)
    for slot, (params, rules) in enumerate(ASKING):
        tokens = np.array([9, 4, 6, 4][: 1 + slot % 4])
        params, rules = SamplingParams(**params), DecodingRules(**rules)
        slots.admit([Admission(slot, tokens, 1, 24, 7 + slot, params, rules)])
    return slots


def step(logits: torch.Tensor, group: ThreadGroup | None, rows: list[int]):
    """Samples, likeliest tokens, and the tokens of all slots, from whole `logits`."""
    shard = None if group is None else Shard(group)
    span = VocabularyShard(30, shard).span
    slots = slots_of(span)
    sampler = Sampler(slots, TimestampRules(20, 19, 18, 3), shard)
    lengths = np.array([1 + row % 4 for row in rows])
    own = logits[:, span.slice].contiguous()
    samples, top = all_of(sampler, own, np.array(rows), lengths)
    return samples, top, slots.tokens


def check(samples: Samples, wanted: Samples) -> None:
    assert samples.tokens.tolist() == wanted.tokens.tolist()
    assert samples.ranks.tolist() == wanted.ranks.tolist()
    for name in ("logprobs", "restricted_logprobs"):
        actual, expected = getattr(samples, name), getattr(wanted, name)
        assert not actual.isnan().any()
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def check_ranks(
    ranks: int, logits: torch.Tensor, rows: list[int], kind: type[ThreadGroup], wanted: Any = None
) -> None:
    """Each of `ranks` comes to what `step` gives for one, or to `wanted`."""
    wanted_samples, wanted_top, tokens = wanted or step(logits, None, rows)
    for samples, top, own_tokens in run_ranks(ranks, lambda g: step(logits, g, rows), kind):
        check(samples, wanted_samples)
        assert torch.equal(own_tokens, tokens)
        assert (top is None) == (wanted_top is None)
        if top is not None and wanted_top is not None:
            assert torch.equal(top.ids, wanted_top.ids)
            torch.testing.assert_close(top.logprobs, wanted_top.logprobs)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_every_rule_in_one_batch_and_alone(ranks: int, seed: int) -> None:
    """With four ranks, the last one has fewer words than the others."""
    torch.manual_seed(seed)
    every = list(range(len(ASKING)))
    for rows in (every, *([row] for row in every)):
        logits = torch.randn(len(rows), 30) * 3
        check_ranks(ranks, logits, rows, ThreadGroup)


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
def test_every_rule_behind_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that ask for more are chosen once more, or ranked, from what the kernels have left."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    rows = list(range(len(ASKING)))
    wanted = step(logits := torch.randn(len(rows), 30) * 3, None, rows)
    monkeypatch.setattr(Sampler, "greedy", greedy_by_kernels)
    check_ranks(3, logits, rows, TakingTurns, wanted)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("with_rules", [False, True])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_states_of_timestamps_and_what_is_exchanged(
    ranks: int, with_rules: bool, seed: int
) -> None:
    whole = random_slots(np.random.default_rng(seed), RULES, COUNT, VOCABULARY, 16)
    lengths = torch.from_numpy(whole.host["max_len"][:COUNT]) - 1
    logits = torch.from_numpy(
        np.random.default_rng(seed + 9).standard_normal((COUNT, VOCABULARY)).astype(np.float32) * 3
    )
    logits = logits.round() if seed % 2 else logits  # ties, also between ranks
    rows, rules = torch.arange(COUNT), RULES if with_rules else None
    wanted = Samples.empty(COUNT, CPU)
    Sampler(whole, rules).greedy(logits, rows, lengths, wanted)
    wanted.ranks.zero_()  # greedy of several ranks leaves them to `finish`

    def work(group: ThreadGroup) -> tuple[Samples, torch.Tensor, ThreadGroup]:
        shard = Shard(group)
        span = shard.vocabulary(VOCABULARY)
        slots = random_slots(np.random.default_rng(seed), RULES, COUNT, VOCABULARY, 16)
        slots.vocabulary, slots.masks.rows = span, slots.masks.rows[:, span.slice]
        samples = Samples.empty(COUNT, CPU)
        Sampler(slots, rules, shard).greedy(logits[:, span.slice], rows, lengths, samples)
        return samples, slots.tokens, group

    for samples, tokens, group in run_ranks(ranks, work):
        check(samples, wanted)
        assert torch.equal(tokens, whole.tokens)
        assert group.calls == ["all_gather"]
        assert group.numbers == [COUNT * ROW_NUMBERS]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("vocabulary", [30, 32])
def test_readouts(ranks: int, vocabulary: int) -> None:
    logits = torch.randn(7, vocabulary).round(decimals=1)
    asked = torch.tensor([0, 7, 3, -1, vocabulary - 1, vocabulary, 5], dtype=torch.int32)
    wanted = DeviceReadouts.empty(7, CPU)
    wanted.read(logits, asked)

    def work(group: ThreadGroup) -> tuple[DeviceReadouts, ThreadGroup]:
        words, readouts = VocabularyShard(vocabulary, Shard(group)), DeviceReadouts.empty(7, CPU)
        readouts.read(logits[:, words.span.slice], asked, words)
        return readouts, group

    for readouts, group in run_ranks(ranks, work):
        torch.testing.assert_close(readouts.logprobs, wanted.logprobs, atol=1e-5, rtol=1e-5)
        assert readouts.likeliest.tolist() == wanted.likeliest.tolist()
        assert group.numbers == [7 * 4]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_benchmark_of_host_work_runs(ranks: int) -> None:
    took = SamplingWork(4, ranks, SamplingParams(logprobs=1)).microseconds(2)
    assert min(took["greedy"], took["finish"]) > 0


def test_masks_of_other_words_than_the_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="masks of the words"):
        Sampler(slots_of(None), None, Shard(ThreadGroup.make(2)[1]))
