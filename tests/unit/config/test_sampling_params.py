"""Sampling parameters: wrong values are refused by name, rule and value; right ones kept plain."""

import dataclasses
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.errors import SamplingError
from antiphon.config.sampling import SamplingParams

NAN, INF = float("nan"), float("inf")
WRONG: list[tuple[str, Any, str]] = [  # field, value, a part of the rule
    ("n", 0, "between 1 and 1024"),
    ("n", 1.0, "a whole number between 1 and 1024"),
    ("n", True, "a whole number"),
    ("n", "3", "a whole number"),
    ("n", [1], "a whole number"),
    ("n", 10**5000, "between 1 and 1024"),
    ("temperature", -0.1, "at least 0"),
    ("temperature", NAN, "at least 0"),
    ("temperature", INF, "at most 10000"),
    ("temperature", "0.5", "a number"),
    ("temperature", True, "a number"),
    ("temperature", 1j, "a number"),
    ("temperature", 10**400, "a number"),
    ("temperature", [0.5], "a number"),
    ("top_p", 0, "in (0, 1]"),
    ("top_p", 1.01, "in (0, 1]"),
    ("top_p", NAN, "in (0, 1]"),
    ("top_p", "all", "a number in (0, 1]"),
    ("top_k", -2, "at least -1"),
    ("top_k", 0.5, "a whole number"),
    ("top_k", 2**40, "at least -1"),
    ("top_k", NAN, "a whole number"),
    ("min_p", -0.5, "in [0, 1]"),
    ("min_p", 2, "in [0, 1]"),
    ("min_p", Decimal("0.1"), "a number in [0, 1]"),
    ("seed", 1.5, "a whole number or None"),
    ("seed", "42", "a whole number or None"),
    ("seed", False, "a whole number or None"),
    ("max_tokens", 0, "at least 1, or None"),
    ("max_tokens", -5, "at least 1"),
    ("max_tokens", 2.0, "a whole number at least 1"),
    ("max_tokens", 10**30, "at least 1"),
    ("max_tokens", "max", "a whole number"),
    ("min_tokens", -1, "at least 0"),
    ("min_tokens", 10**30, "at least 0"),
    ("min_tokens", 1.5, "a whole number"),
    ("stop", "", "not empty"),
    ("stop", ["a", ""], "not empty"),
    ("stop", [1], "a string"),
    ("stop", b"x", "a string"),
    ("stop", {"a": 1}, "a string"),
    ("stop", 5, "a string"),
    ("stop_token_ids", 5, "a list of token ids"),
    ("stop_token_ids", [-1], "from 0 on (here -1)"),
    ("stop_token_ids", [1.5], "from 0 on (here 1.5)"),
    ("stop_token_ids", ["5"], "from 0 on (here '5')"),
    ("stop_token_ids", [True], "(here True)"),
    ("stop_token_ids", "5", "a list of token ids"),
    ("include_stop_str_in_output", 1, "True or False"),
    ("ignore_eos", "yes", "True or False"),
    ("skip_special_tokens", 0.0, "True or False"),
    ("repetition_penalty", 0, "in [0.01, 100]"),
    ("repetition_penalty", 1e-30, "in [0.01, 100]"),
    ("repetition_penalty", "1.2", "a number"),
    ("presence_penalty", 2.5, "in [-2, 2]"),
    ("frequency_penalty", -3, "in [-2, 2]"),
    ("frequency_penalty", [0.1], "a number"),
    ("logprobs", 2.5, "a whole number between 0 and 20, or None"),
    ("logprobs", 21, "between 0 and 20"),
    ("logprobs", -1, "between 0 and 20"),
    ("logprobs", True, "a whole number"),
    ("logit_bias", {5: "x"}, "a number between -10000 and 10000"),
    ("logit_bias", {5: INF}, "between -10000 and 10000"),
    ("logit_bias", {5: NAN}, "between -10000 and 10000"),
    ("logit_bias", {"five": 1.0}, "(here 'five')"),
    ("logit_bias", {1.5: 1.0}, "(here 1.5)"),
    ("logit_bias", {5: 1.0, "5": 2.0}, "token 5 is there twice"),
    ("logit_bias", [(5, 1.0)], "a mapping"),
    ("allowed_token_ids", [], "not empty"),
    ("allowed_token_ids", [1.5], "(here 1.5)"),
    ("allowed_token_ids", [None], "(here None)"),
    ("allowed_token_ids", np.array(5), "a list of token ids"),
    ("allowed_token_ids", {1: 2}, "a list of token ids"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "rule"), WRONG, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(WRONG)]
)
def test_wrong_sampling_parameters_name_field_rule_and_value(
    name: str, value: Any, rule: str
) -> None:
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**{name: value})
    message = str(caught.value)
    assert message.startswith(name)
    assert rule in message
    assert ", not " in message
    assert len(message) < 250


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SamplingParams)])
def test_none_is_the_default(name: str) -> None:
    assert SamplingParams(**{name: None}) == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("temperature", 1, 1.0),
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", 1e-38, 0.0),  # below what float32 can divide by: greedy
        ("max_tokens", np.int64(5), 5),
        ("max_tokens", torch.tensor(5), 5),
        ("seed", -1, 2**63 - 1),
        ("seed", 2**70 + 3, 3),
        ("stop", "end", ("end",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop_token_ids", np.array([1, 2]), (1, 2)),
        ("stop_token_ids", range(2), (0, 1)),
        ("allowed_token_ids", torch.tensor([3]), (3,)),
        ("logit_bias", {"5": 1}, {5: 1.0}),
        ("logit_bias", {np.int32(5): np.float64(-100)}, {5: -100.0}),
        ("ignore_eos", np.bool_(True), True),
    ],
)
def test_right_values_become_plain_ones(name: str, value: Any, plain: Any) -> None:
    params = SamplingParams(**{name: value})
    kept = getattr(params, name)
    assert kept == plain
    assert type(kept) is type(plain)
    assert pickle.loads(pickle.dumps(params)) == params
    assert hash(params) == hash(SamplingParams(**{name: plain}))


@pytest.mark.parametrize("name", ["best_of", "num_beams", "use_beam_search", "beam_width"])
def test_other_names_of_beams_are_answered_with_ours(name: str) -> None:
    for make in (lambda options: SamplingParams(**options), SamplingParams.of):
        with pytest.raises(SamplingError, match=f"{name}=2 cannot be honored: .*beam_size"):
            make({name: 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, r"beam_size must be between 1 \(off\) and 64, not 0"),
        ({"beam_size": 2.5}, "beam_size must be a whole number"),
        ({"beam_size": 2, "temperature": 0.5}, "beam_size=2 takes the likeliest"),
        ({"beam_size": 2, "n": 3}, "n=3 outputs of 2 beams"),
        ({"n": 3}, "or beam_size for the n best"),
        ({"beam_size": 2, "patience": 1.0, "early_stopping": True}, "give patience .* or early"),
        ({"early_stopping": "always"}, "early_stopping must be True, False or 'never'"),
        ({"patience": 0}, "patience must be in"),
        ({"length_penalty": 11}, "length_penalty must be in"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
    ],
    ids=str,
)
def test_beams_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        SamplingParams(**options)


@pytest.mark.parametrize("name", ["max_tokens", "min_tokens", "top_k", "no_repeat_ngram_size"])
def test_numbers_that_are_too_large_are_told_the_largest(name: str) -> None:
    largest = {"max_tokens": None, name: 2**31 - 1}
    assert getattr(SamplingParams(**largest), name) == 2**31 - 1
    with pytest.raises(SamplingError, match=f"{name} .*, and at most 2147483647, not 2147483648"):
        SamplingParams(**{name: 2**31})


@pytest.mark.parametrize(
    "name",
    [
        "bad_words",
        "structured_outputs",
        "guided_decoding",
        "prompt_logprobs",
        "detokenize",
        "spaces_between_special_tokens",
        "truncate_prompt_tokens",
        "logits_processors",
    ],
)
def test_what_is_known_elsewhere_is_refused_with_a_reason(name: str) -> None:
    with pytest.raises(SamplingError, match=f"{name}='x' cannot be honored: .{{8}}"):
        SamplingParams(**{name: "x"})


def test_values_that_change_nothing_are_taken_under_foreign_names() -> None:
    assert (
        SamplingParams(best_of=1, use_beam_search=False, prompt_logprobs=None) == SamplingParams()
    )
    with pytest.raises(SamplingError, match="best_of=True"):
        SamplingParams(best_of=True)


@pytest.mark.parametrize("value", [5, "x", ["stop"], {"stop": 1}, True], ids=repr)
def test_what_is_filled_in_here_is_nobody_elses(value: object) -> None:
    with pytest.raises(SamplingError, match="unknown sampling parameter 'fields_set'"):
        SamplingParams.of({"fields_set": value})


def test_suggestions_are_near() -> None:
    with pytest.raises(SamplingError, match="Did you mean 'temperature'"):
        SamplingParams(temprature=1)
    with pytest.raises(
        SamplingError,
        match=r"unknown sampling parameter 'colour'. Valid names: allowed_token_ids, .*top_p",
    ):
        SamplingParams(colour="x")
    with pytest.raises(SamplingError, match="by name"):
        SamplingParams(0.5)
    with pytest.raises(SamplingError, match="must be a mapping, not list"):
        SamplingParams.of([1])
