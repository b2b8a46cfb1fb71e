"""Sampling parameters: wrong values are refused by name, rule and value; right ones kept plain."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.errors import SamplingError
from antiphon.config.generation import GenerationDefaults
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


@pytest.mark.parametrize(
    "name", ["best_of", "num_beams", "use_beam_search", "length_penalty", "early_stopping"]
)
def test_beams_are_refused_by_name(name: str) -> None:
    for make in (lambda options: SamplingParams(**options), SamplingParams.of):
        with pytest.raises(
            SamplingError, match=f"{name}=2 cannot be honored: beam search is not there yet"
        ):
            make({name: 2})


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
        "no_repeat_ngram_size",
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
    with pytest.raises(SamplingError, match="unknown sampling parameter 'given'"):
        SamplingParams.of({"given": value})


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


def test_params_remember_what_was_set() -> None:
    params = SamplingParams(temperature=0.0, top_p=None)
    assert not params.leaves_open("temperature")
    assert params.leaves_open("top_p")
    assert params.leaves_open("max_tokens")
    replaced = dataclasses.replace(params, max_tokens=3)
    assert [replaced.leaves_open(name) for name in ("temperature", "top_p", "max_tokens")] == [
        False,
        True,
        False,
    ]


OPEN = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "min_tokens"]


@pytest.mark.parametrize("field", dataclasses.fields(SamplingParams), ids=lambda field: field.name)
def test_a_default_that_a_copy_sets_counts_as_set(field: Any) -> None:
    """Also where nothing but its being there tells it from a parameter that was left open."""
    default = getattr(SamplingParams(), field.name)
    if field.name == "given" or default is None:
        return  # None always leaves a parameter open
    for params in (SamplingParams(), SamplingParams(seed=3)):
        copied = dataclasses.replace(params, **{field.name: default})
        assert copied == dataclasses.replace(
            SamplingParams(seed=params.seed), **{field.name: default}
        )
        assert copied.given == params.given | {field.name}
        again = dataclasses.replace(copied, max_tokens=9)
        assert again.given == copied.given | {"max_tokens"}


COPIES: dict[str, Callable[[SamplingParams], SamplingParams]] = {
    "replace": dataclasses.replace,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda params: pickle.loads(pickle.dumps(params)),
    "vars": lambda params: SamplingParams(**vars(params)),
    "asdict": lambda params: SamplingParams.of(dataclasses.asdict(params)),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_every_kind_of_copy_remembers_what_was_set(make: Any) -> None:
    params = dataclasses.replace(SamplingParams(top_p=1.0, n=1), temperature=0.0)
    copied = make(params)
    assert copied == params
    assert copied.given == {"top_p", "n", "temperature"}
    assert [name for name in OPEN if copied.leaves_open(name)] == OPEN[2:]


@pytest.mark.parametrize("name", OPEN)
def test_what_a_caller_sets_wins_over_the_checkpoint(name: str) -> None:
    checkpoint = GenerationDefaults(
        temperature=0.7, top_p=0.8, top_k=30, min_p=0.1, repetition_penalty=1.3,
        max_new_tokens=20, min_new_tokens=4,
    )  # fmt: skip
    value = {"max_tokens": 448}.get(name, getattr(SamplingParams(), name))
    for params in (
        SamplingParams(**{name: value}),
        dataclasses.replace(SamplingParams(), **{name: value}),
    ):
        completed = checkpoint.complete(params)
        assert getattr(completed, name) == value
        rules = checkpoint.rules(1, completed)
        assert rules.min_tokens == (0 if name == "min_tokens" else 4)
        most = checkpoint.max_tokens(1, completed, 448)
        assert most == (448 if name == "max_tokens" else 20)


def test_the_number_of_named_tokens_follows_their_list() -> None:
    params = SamplingParams(logprob_token_ids=[3, 4])
    assert dataclasses.replace(params, logprob_token_ids=[5, 6, 7]).logprobs == 3
    assert dataclasses.replace(params, logprob_token_ids=None).logprobs is None
    assert dataclasses.replace(params, seed=1).logprobs == 2


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("stop_token_ids", np.array([1, 2]), (1, 2)),
        ("allowed_token_ids", np.array([3]), (3,)),
        ("logprob_token_ids", torch.tensor([3, 4]), (3, 4)),
        ("logit_bias", {"5": np.float32(1.0)}, {5: 1.0}),
        ("temperature", np.float64(0.5), 0.5),
    ],
)
def test_copies_take_the_same_values_as_the_constructor(name: str, value: Any, plain: Any) -> None:
    replaced = dataclasses.replace(SamplingParams(top_p=0.5), **{name: value})
    assert replaced == SamplingParams(**{"top_p": 0.5, name: plain})
    assert not replaced.leaves_open(name)
    assert getattr(dataclasses.replace(replaced, min_p=0.1), name) == plain


def test_copies_refuse_what_the_constructor_refuses() -> None:
    params = SamplingParams(top_p=0.5)
    with pytest.raises(SamplingError, match=r"temperature must be a number .*, not array"):
        dataclasses.replace(params, temperature=np.array([1.0, 2.0]))
    with pytest.raises(SamplingError, match="Did you mean 'temperature'"):
        dataclasses.replace(params, temprature=1.0)
    with pytest.raises(SamplingError, match="give logprobs or logprob_token_ids, not both"):
        SamplingParams(logprobs=np.array([1, 2]), logprob_token_ids=[1, 2, 3])


def test_an_empty_array_in_a_copy_is_the_default() -> None:
    params = SamplingParams(top_p=0.5, stop_token_ids=[])
    assert dataclasses.replace(params, stop_token_ids=np.array([], np.int64)) == params


def test_none_in_a_copy_leaves_a_parameter_open_again() -> None:
    params = SamplingParams(temperature=0.5, top_p=0.5)
    assert dataclasses.replace(params, temperature=None) == SamplingParams(top_p=0.5)
