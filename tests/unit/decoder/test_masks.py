"""Token masks: a table of fixed size that suits any order of admissions, and settings that cannot
be taken."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import PlainEngine
from random_examples import examples

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.masks import MaskTable
from antiphon.decoder.state import Slots
from antiphon.scheduler.plan import Admission
from antiphon.scheduler.request import RequestState

VOCAB = 40


def admission(
    slot: int, suppress: tuple[int, ...], begin: tuple[int, ...], bias: dict[int, float]
) -> Admission:
    rules = DecodingRules(suppress=suppress, begin_suppress=begin)
    return Admission(slot, np.array([1, 2]), 2, 8, 0, SamplingParams(logit_bias=bias), rules)


def mask_of(suppress: tuple[int, ...], bias: dict[int, float]) -> torch.Tensor:
    mask = torch.zeros(VOCAB)
    for token, value in bias.items():
        mask[token] += value
    mask[list(suppress)] = float("-inf")
    return mask


TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=2, unique=True).map(tuple)
BIASES = st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-1.0, 0.5, 2.0]), max_size=2)


@examples(200)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 3), TOKENS, TOKENS, BIASES),
            max_size=4,
            unique_by=lambda case: case[0],
        ),
        max_size=30,
    )
)
def test_any_order_of_admissions_finds_room_and_reads_its_own_masks(steps: list[Any]) -> None:
    slots = Slots(4, 8, VOCAB, torch.device("cpu"))
    address, held = slots.masks.rows.data_ptr(), {}
    for step in steps:
        assert not slots.admit([admission(*case) for case in step])
        held.update({slot: wanted for slot, *wanted in step})
        for slot, (suppress, begin, bias) in held.items():
            now, first = (
                slots.masks.rows[int(slots.on_device[name][slot])]
                for name in ("mask", "begin_mask")
            )
            assert torch.equal(now, mask_of(suppress, bias))
            assert torch.equal(first, mask_of((*suppress, *begin), bias))
    assert (slots.masks.rows.data_ptr(), len(slots.masks.rows)) == (address, 9)
    assert not slots.masks.rows[0].any()


def test_a_full_table_serves_new_owners() -> None:
    """Every slot holds two masks of its own; its next owner wants two others."""
    slots = Slots(8, 8, VOCAB, torch.device("cpu"))
    for round_ in range(4):
        step = [admission(slot, (slot,), (8 + slot,), {20: 1.0 + round_}) for slot in range(8)]
        assert not slots.admit(step)
        assert (
            len({int(row) for name in ("mask", "begin_mask") for row in slots.host[name][:8]}) == 16
        )


def test_a_value_that_cannot_be_taken_is_refused_before_anything_changes() -> None:
    table = MaskTable(VOCAB, 1, torch.device("cpu"))
    for suppress, allowed, bias in (
        ((), [1.5], {}),
        ((), None, {VOCAB: 1.0}),
        ((), None, {-1: 1.0}),
        ((), None, {5: "x"}),
        ((), ["a"], {}),
    ):
        with pytest.raises((ValueError, TypeError)):
            table.acquire(suppress, allowed, bias)
    assert not table.rows.any()
    assert [table.acquire((token,), None, {}) for token in (3, 4)] == [1, 2]
    assert table.acquire((3,), None, {}) == 1


def test_ids_that_a_checkpoint_suppresses_beyond_its_vocabulary_do_no_harm() -> None:
    table = MaskTable(VOCAB, 1, torch.device("cpu"))
    row = table.acquire((3, VOCAB, VOCAB + 100), None, {})
    assert torch.isinf(table.rows[row]).nonzero().flatten().tolist() == [3]


def unchecked(params: SamplingParams, **values: Any) -> SamplingParams:
    """As if a check had let them through."""
    for name, value in values.items():
        object.__setattr__(params, name, value)
    return params


BAD = [
    {"logit_bias": {5: "x"}},
    {"logit_bias": {10**6: 1.0}},
    {"allowed_token_ids": [1.5]},
    {"allowed_token_ids": (-7,)},
    {"temperature": "warm"},
    {"top_k": None},
    {"logprobs": 2.5},
    {"logprobs": "many"},
]


@pytest.fixture(scope="module")
def bart(checkpoints: Any) -> PlainEngine:
    return PlainEngine(checkpoints("bart")[0], max_num_seqs=24, max_model_len=60, kv_page_size=8)


def texts(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(3, 90, int(rng.integers(2, 20))).astype(np.int32) for _ in range(count)]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_what_cannot_be_taken_ends_its_own_request(bart: PlainEngine, bad: dict[str, Any]) -> None:
    first, second = texts(2)
    before = [bart.submit(bart.request(text, [2], 9)) for text in (first, second)]
    bart.run()
    wanted = [bart.finished[id_].token_ids for id_ in before]
    ids = [
        bart.submit(bart.request(first, [2], 9)),
        bart.submit(bart.request(first, [2], 9, params=unchecked(SamplingParams(), **bad))),
        bart.submit(bart.request(second, [2], 9)),
    ]
    bart.run()
    good, ended, other = (bart.finished[id_] for id_ in ids)
    assert ended.state in (RequestState.FAILED, RequestState.REFUSED)
    assert ended.error
    assert [good.token_ids, other.token_ids] == wanted
    encodes = bart.replica.scheduler.encodes
    assert (encodes.tokens, len(bart.replica.runner.arena)) == (0, len(encodes.kept))
    bart.replica.scheduler.pages.check()
    bart.replica.scheduler.batch.check()


@pytest.mark.parametrize("prompt", [[2, 10**6], [2, -1], []])
def test_a_prompt_outside_the_vocabulary_ends_its_own_request(
    bart: PlainEngine, prompt: list[int]
) -> None:
    """On a GPU, looking it up would end the process."""
    ids = [bart.submit(bart.request(texts(1)[0], case, 9)) for case in ([2], prompt)]
    bart.run()
    good, bad = (bart.finished[id_] for id_ in ids)
    assert good.state is RequestState.DONE
    assert bad.state in (RequestState.FAILED, RequestState.REFUSED)


def test_many_distinct_masks_at_once_give_what_each_gives_alone(bart: PlainEngine) -> None:
    """More than any table that is made for a typical load; with first tokens of their own, two
    each."""
    rng = np.random.default_rng(5)
    requests = []
    for i, text in enumerate(texts(40)):
        params = SamplingParams(
            logit_bias={int(rng.integers(3, 90)): float(rng.normal() * 4) for _ in range(3)},
            logprobs=0,
        )
        requests.append((text, DecodingRules(suppress=(3 + i,), begin_suppress=(50, 9)), params))

    def run(together: bool) -> list[list[int]]:
        ids = []
        for text, rules, params in requests:
            ids.append(bart.submit(bart.request(text, [2], 12, rules, params=params)))
            if not together:
                bart.run()
        bart.run()
        return [bart.finished[id_].token_ids for id_ in ids]

    assert run(together=True) == run(together=False)
