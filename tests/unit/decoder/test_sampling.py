"""Sampling rules, each against a plain computation of one row; draws against their distribution;
and seeds in any batch."""

import numpy as np
import pytest
import torch
from random_examples import share
from sampling_steps import all_of, sample

from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.errors import SamplingError
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.drawing import uniforms
from antiphon.decoder.sampling.masks import MaskTable
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.state import Slots
from antiphon.runtime.device import together_to_device
from antiphon.scheduler.plan import Admission

VOCAB, MAX_LEN = 30, 24


class Bench:
    """A sampler with hand-made sequences."""

    def __init__(self, timestamps: TimestampRules | None = None) -> None:
        self.slots = Slots(64, MAX_LEN, VOCAB, torch.device("cpu"))
        self.sampler = Sampler(self.slots, timestamps)
        self.lengths = np.zeros(64, np.int64)

    def admit(
        self,
        slot: int,
        tokens: list[int],
        params: SamplingParams,
        rules: DecodingRules | None = None,
        **fields: int,
    ) -> None:
        self.slots.admit([admission(slot, tokens, params, rules, **fields)])
        self.lengths[slot] = len(tokens)

    def sample(self, logits: torch.Tensor, slots: list[int]):
        rows = np.array(slots)
        return sample(self.sampler, logits, rows, self.lengths[rows])


def admission(
    slot: int,
    tokens: list[int],
    params: SamplingParams,
    rules: DecodingRules | None = None,
    **fields: int,
) -> Admission:
    return Admission(
        slot,
        np.array(tokens, np.int64),
        fields.get("prompt_len", 1),
        fields.get("max_len", MAX_LEN),
        fields.get("seed", 0),
        params,
        rules or DecodingRules(),
    )


def one(
    logits: list[float],
    tokens: list[int],
    rules: DecodingRules | None = None,
    timestamps: TimestampRules | None = None,
    **params,
):
    bench = Bench(timestamps)
    fields = {
        name: params.pop(name) for name in ("prompt_len", "max_len", "seed") if name in params
    }
    bench.admit(3, tokens, SamplingParams(**params), rules, **fields)
    return int(bench.sample(torch.tensor([logits + [-9.0] * (VOCAB - len(logits))]), [3])[0][0])


def test_greedy_takes_the_likeliest() -> None:
    assert one([0.0, 3.0, 2.0], [5]) == 1


@pytest.mark.parametrize(
    ("params", "rules", "tokens", "wanted"),
    [
        ({"logit_bias": {2: 5.0}}, {}, [9], 2),
        ({"allowed_token_ids": [0, 2]}, {}, [9], 2),
        ({}, {"suppress": (1,)}, [9], 2),
        ({}, {"begin_suppress": (1,)}, [9], 2),
        ({}, {"begin_suppress": (1,)}, [9, 9], 1),  # not at the beginning any more
        ({"min_tokens": 2}, {"stop_ids": (1,)}, [9, 9], 2),
        ({"min_tokens": 2}, {"stop_ids": (1,)}, [9, 9, 9], 1),
        ({}, {"min_tokens": 2, "stop_ids": (1,)}, [9, 9], 2),
        ({}, {"forced_first": 17}, [9], 17),
        ({}, {"forced_first": 17}, [9, 9], 1),
        ({"max_len": 3}, {"forced_last": 18}, [9, 9], 18),
        ({"max_len": 4}, {"forced_last": 18}, [9, 9], 1),
        ({"repetition_penalty": 2.0}, {}, [9, 1], 2),
        ({"repetition_penalty": 2.0}, {}, [1], 2),  # the prompt counts
        ({"presence_penalty": 1.5}, {}, [9, 1], 2),
        ({"presence_penalty": 1.5}, {}, [1], 1),  # the prompt does not count
        ({"frequency_penalty": 0.6}, {}, [9, 1], 1),
        ({"frequency_penalty": 0.6}, {}, [9, 1, 1], 2),
        ({}, {"no_repeat_ngram": 2}, [4, 1, 4], 2),
        ({}, {"no_repeat_ngram": 3}, [4, 1, 4], 1),
        ({}, {"no_repeat_ngram": 3}, [8, 4, 1, 8, 4], 2),
    ],
)
def test_rules(params: dict, rules: dict, tokens: list[int], wanted: int) -> None:
    assert one([0.0, 3.0, 2.0], tokens, DecodingRules(**rules), **params) == wanted


def test_rows_do_not_touch_each_other() -> None:
    bench = Bench()
    bench.admit(0, [9], SamplingParams(logit_bias={2: 9.0}))
    bench.admit(1, [9], SamplingParams())
    bench.admit(2, [9, 1], SamplingParams(repetition_penalty=5.0))
    logits = torch.tensor([[0.0, 3.0, 2.0] + [-9.0] * (VOCAB - 3)] * 3)
    assert bench.sample(logits, [0, 1, 2])[0].tolist() == [2, 1, 2]
    assert bench.sample(logits[:2], [1, 2])[0].tolist() == [1, 2]


def test_a_slot_forgets_who_had_it_before() -> None:
    bench = Bench()
    bench.admit(0, [9], SamplingParams(logit_bias={2: 9.0}, repetition_penalty=3.0))
    bench.admit(0, [9], SamplingParams())
    assert bench.sample(torch.tensor([[0.0, 3.0, 2.0] + [-9.0] * (VOCAB - 3)]), [0])[
        0
    ].tolist() == [1]


def test_masks_are_shared_and_their_rows_used_again() -> None:
    bench = Bench()
    for round_ in range(3):
        for slot in range(40):
            bench.admit(
                slot,
                [9],
                SamplingParams(logit_bias={2: float(round_)} if slot % 2 else {}),
                DecodingRules(suppress=(5,)),
            )
    masks = bench.slots.masks
    assert len(masks.rows) == 2 * 64 + 1
    used = {
        int(bench.slots.host[name][slot]) for name in ("mask", "begin_mask") for slot in range(40)
    }
    assert len(used) == 2


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_k": 3},
        {"top_p": 0.7},
        {"min_p": 0.3},
        {"temperature": 0.5},
        {"top_k": 4, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_draws_follow_the_distribution(params: dict) -> None:
    torch.manual_seed(2)
    logits, draws = torch.randn(VOCAB) * 1.5, share(20_000)
    settings = SamplingParams(**{"temperature": 1.0, **params})
    bench = Bench()
    counts, rows = np.zeros(VOCAB), logits.expand(50, -1)
    bench.lengths[:50] = 1
    for first in range(0, draws, 50):
        bench.slots.admit([admission(slot, [9], settings, seed=first + slot) for slot in range(50)])
        np.add.at(counts, bench.sample(rows, list(range(50)))[0].numpy(), 1)
    wanted = expected_distribution(logits, settings)
    assert not counts[wanted == 0].any(), "a token outside the filters was drawn"
    held = wanted > 0
    chi_square = ((counts[held] - draws * wanted[held]) ** 2 / (draws * wanted[held])).sum()
    freedom = held.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * max(freedom, 1))


def expected_distribution(logits: torch.Tensor, params: SamplingParams) -> np.ndarray:
    probabilities = (logits.double() / params.temperature).softmax(-1).numpy()
    order = np.argsort(-probabilities)
    kept = order[: params.top_k or VOCAB]
    renormalised = probabilities[kept] / probabilities[kept].sum()
    enough = int(np.searchsorted(np.cumsum(renormalised), params.top_p)) + 1
    kept = kept[:enough]
    kept = kept[probabilities[kept] >= params.min_p * probabilities.max()]
    expected = np.zeros(VOCAB)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    return expected


def test_the_same_seed_draws_the_same_in_any_batch() -> None:
    torch.manual_seed(3)
    logits = torch.randn(8, VOCAB)
    alone, crowd = Bench(), Bench()
    for params in ({"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9}):
        alone.admit(0, [9, 4], SamplingParams(**params), seed=77)
        crowd.admit(5, [9, 4], SamplingParams(**params), seed=77)
        for slot in (0, 1, 2, 3, 4, 6, 7):
            crowd.admit(
                slot,
                [1, 2, 3],
                SamplingParams(temperature=1.3, top_k=5)
                if slot % 2
                else SamplingParams(temperature=2.0),
                seed=slot,
            )
        token = alone.sample(logits[5:6], [0])[0][0]
        assert crowd.sample(logits, list(range(8)))[0][5] == token


def test_uniforms_are_uniform_and_depend_on_seed_and_position() -> None:
    grid = uniforms(np.repeat(np.arange(300, dtype=np.uint64), 300), np.tile(np.arange(300), 300))
    assert len(np.unique(grid)) == grid.size
    assert grid.min() >= 0.0
    assert grid.max() < 1.0
    histogram, _ = np.histogram(grid, bins=50, range=(0, 1))
    assert abs(histogram - grid.size / 50).max() < 5 * np.sqrt(grid.size / 50)
    assert abs(np.corrcoef(grid[:-1], grid[1:])[0, 1]) < 0.02


def test_logprobs_are_of_the_raw_logits() -> None:
    bench = Bench()
    bench.admit(0, [9], SamplingParams(logprobs=2, logit_bias={7: 100.0}))
    bench.admit(1, [9], SamplingParams())
    bench.admit(2, [9], SamplingParams(logprobs=0, temperature=1.0), seed=3)
    logits = torch.randn(3, VOCAB)
    slots = np.arange(3)
    samples, top = all_of(bench.sampler, logits, slots, bench.lengths[slots])
    rows = samples.start_copy().on_host()
    raw = logits.log_softmax(-1)
    assert rows["token"][:2].tolist() == [7, logits[1].argmax()]
    for row, token in enumerate(rows["token"]):
        assert rows["logprob"][row] == pytest.approx(raw[row, token].item(), abs=1e-6)
        rank = (raw[row] > raw[row, token]).sum() + 1
        assert rows["rank"][row] == (rank if row != 1 else 0)
    assert rows["restricted_logprob"].tolist() == pytest.approx([0.0, *rows["logprob"][1:]])
    assert top is not None
    host = top.start_copy().on_host()
    assert host.rows.tolist() == [0]
    assert host.ids[0].tolist() == raw[0].topk(2).indices.tolist()
    assert host.of_row(0, 1) == ([raw[0].argmax()], [pytest.approx(raw[0].max().item())])
    assert host.of_row(1, 1) == host.of_row(2, 1) == ([], [])


TIMES = TimestampRules(first_id=20, no_timestamps_id=19, end_id=18, max_initial=3)


@pytest.mark.parametrize(
    ("tokens", "logits", "wanted"),
    [
        ([1], {2: 9.0, 22: 1.0}, 22),  # it begins with a timestamp
        ([1], {26: 9.0, 23: 1.0}, 23),  # no later than max_initial
        ([1, 20], {25: 9.0, 4: 1.0}, 4),  # after an opening timestamp comes text
        ([1, 20, 4], {19: 9.0, 5: 1.0}, 5),  # never <|notimestamps|>
        (
            [1, 20, 4, 25],
            {4: 9.0, 25: 1.0, 18: 0.0},
            25,
        ),  # after a closing one its twin, or the end
        ([1, 20, 4, 25], {4: 9.0, 18: 1.0}, 18),
        ([1, 20, 4, 25, 25, 6], {22: 9.0, 26: 1.0}, 26),  # time does not run backwards
        (
            [1, 20, 4],
            {5: 1.0, 24: 0.6, 25: 0.6},
            24,
        ),  # timestamps together outweigh the likeliest text
    ],
)
def test_timestamp_rules(tokens: list[int], logits: dict[int, float], wanted: int) -> None:
    row = [logits.get(i, -5.0) for i in range(VOCAB)]
    assert one(row, tokens, DecodingRules(timestamps=TIMES), TIMES) == wanted


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"n": 0}, "n must be between 1"),
        ({"n": 2}, "temperature above 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens=5 is more than max_tokens=4"),
        ({"logprobs": 21}, "between 0 and 20"),
        ({"stop": ["", "x"]}, "not empty"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_bad_sampling_parameters(params: dict, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        SamplingParams(**params)


def test_unknown_sampling_parameters_name_the_nearest() -> None:
    with pytest.raises(SamplingError, match="Did you mean 'temperature'"):
        SamplingParams.of({"temprature": 1})


def test_the_masks_of_the_request_before_are_kept_when_the_next_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    make = MaskTable._mask
    monkeypatch.setattr(
        MaskTable, "_mask", lambda self, *wanted: made.append(wanted) or make(self, *wanted)
    )
    slots = Slots(1, 8, 50, torch.device("cpu"))
    for suppress in ((3, 4), (3, 4), (5,)):
        slots.admit(
            [
                Admission(
                    0, np.array([1, 2]), 2, 8, 0, SamplingParams(), DecodingRules(suppress=suppress)
                )
            ]
        )
        assert slots.tokens[0, :2].tolist() == [1, 2]
        assert torch.isinf(
            slots.masks.rows[int(slots.on_device["mask"][0])]
        ).nonzero().flatten().tolist() == list(suppress)
    assert len(made) == 2


def test_arrays_that_travel_together_arrive_as_they_were() -> None:
    arrays = [
        np.arange(3),
        np.float32([[1.5, -2], [3, 4]]),
        np.zeros((2, 0), np.int32),
        np.arange(5, dtype=np.uint8),
    ]
    for sent, arrived in zip(arrays, together_to_device(arrays, torch.device("cpu")), strict=True):
        assert arrived.shape == sent.shape
        np.testing.assert_array_equal(arrived.numpy(), sent)
        assert arrived.numpy().dtype == sent.dtype
