"""What counts as set in a copy of sampling parameters, and that it wins over the checkpoint."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.errors import SamplingError
from antiphon.config.generation import GenerationDefaults
from antiphon.config.sampling import SamplingParams


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
    if field.name == "fields_set" or default is None:
        return  # None always leaves a parameter open
    for params in (SamplingParams(), SamplingParams(seed=3)):
        copied = dataclasses.replace(params, **{field.name: default})
        assert copied == dataclasses.replace(
            SamplingParams(seed=params.seed), **{field.name: default}
        )
        assert copied.fields_set == params.fields_set | {field.name}
        again = dataclasses.replace(copied, max_tokens=9)
        assert again.fields_set == copied.fields_set | {"max_tokens"}


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
    assert copied.fields_set == {"top_p", "n", "temperature"}
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
