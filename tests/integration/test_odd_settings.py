"""Odd settings of published generation configs: empty means "none", others are read or refused."""

import re
from typing import Any

import pytest
from transformers import GenerationConfig

from antiphon.config.beam_settings import BeamDefaults
from antiphon.config.errors import CheckpointError
from antiphon.config.generation import GenerationDefaults
from antiphon.config.generation_settings import generation_settings

BASE = {"decoder_start_token_id": 0, "eos_token_id": 1}
SIZE = 77
LISTS = [
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
]
NOT_OBEYED = [
    "sequence_bias", "constraints", "force_words_ids", "stop_strings", "dola_layers",
    "exponential_decay_length_penalty", "watermarking_config", "encoder_no_repeat_ngram_size",
    "guidance_scale", "penalty_alpha", "num_return_sequences", "max_time",
    "token_healing", "encoder_repetition_penalty",
]  # fmt: skip
NUMBERS = [
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "no_repeat_ngram_size",
    "repetition_penalty", "temperature", "top_k", "top_p", "min_p",
]  # fmt: skip


def read(**settings: Any) -> GenerationDefaults:
    return GenerationDefaults.of(generation_settings({**BASE, **settings}, {}), {}, SIZE)


@pytest.mark.parametrize("empty", [None, [], {}, ""], ids=repr)
@pytest.mark.parametrize(
    "name", [*LISTS, *NOT_OBEYED, *NUMBERS, "forced_decoder_ids", "do_sample", "lang_to_id"]
)
def test_what_is_empty_says_nothing(name: str, empty: Any) -> None:
    assert read(**{name: empty}) == read()
    assert (
        generation_settings({name: empty}, {})[name] is None
    )  # and does not count as absent: config.json is overridden


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bad_words_ids": [[]]}, {"bad_words": ()}),
        ({"bad_words_ids": [[], [3, 4], None]}, {"bad_words": ((3, 4),)}),
        ({"bad_words_ids": [[3.0, 4.0]]}, {"bad_words": ((3, 4),)}),
        ({"bad_words_ids": [[-1]]}, {"suppress": ()}),
        ({"suppress_tokens": [None]}, {"suppress": ()}),
        ({"suppress_tokens": [3.0, -1]}, {"suppress": (3,)}),
        ({"suppress_tokens": -1}, {"suppress": ()}),
        ({"suppress_tokens": 5}, {"suppress": (5,)}),
        ({"begin_suppress_tokens": [4.0]}, {"begin_suppress": (4,)}),
        ({"max_length": 20.0}, {"max_length": 20}),
        ({"max_length": 1e3}, {"max_length": 1000}),
        ({"max_new_tokens": 5.0}, {"max_new_tokens": 5}),
        ({"min_length": 0.0}, {"min_length": 0}),
        ({"min_length": -1}, {"min_length": 0}),
        ({"min_length": False}, {"min_length": 0}),
        ({"no_repeat_ngram_size": 3.0}, {"no_repeat_ngram": 3}),
        ({"no_repeat_ngram_size": -1}, {"no_repeat_ngram": 0}),
        ({"no_repeat_ngram_size": False}, {"no_repeat_ngram": 0}),
        ({"repetition_penalty": 1}, {"repetition_penalty": 1.0}),
        ({"do_sample": 1, "top_k": 40.0}, {"temperature": 1.0, "top_k": 40}),
        ({"do_sample": 0, "temperature": 0}, {"temperature": None}),
        ({"do_sample": True, "top_p": 0.0}, {"top_p": 1e-6}),
        ({"top_p": 0}, {"temperature": None}),
        ({"eos_token_id": []}, {"end_ids": ()}),
        ({"eos_token_id": 2.0}, {"end_ids": (2,)}),
        ({"eos_token_id": [2, None]}, {"end_ids": (2,)}),
        ({"eos_token_id": -1}, {"end_ids": ()}),
        ({"decoder_start_token_id": [2.0]}, {"start_id": 2}),
        ({"decoder_start_token_id": -1, "bos_token_id": 4}, {"start_id": 4}),
        ({"decoder_start_token_id": [], "bos_token_id": [4]}, {"start_id": 4}),
        ({"forced_bos_token_id": [5]}, {"forced_first": 5}),
        ({"forced_bos_token_id": -1}, {"forced_first": None}),
        ({"forced_eos_token_id": 2.0}, {"forced_last": 2}),
        ({"num_beams": 1.0, "num_return_sequences": 1.0, "num_beam_groups": 1.0}, {"ignored": ()}),
        ({"num_beams": True, "early_stopping": "never", "length_penalty": 0.0}, {"ignored": ()}),
        ({"num_beams": 4.0}, {"ignored": (), "beams": BeamDefaults(4)}),
        ({"sequence_bias": [[[3], -1.0]]}, {"ignored": ("sequence_bias=[[[3], -1.0]]",)}),
        ({"transformers_version": "4.26.0.dev0", "_from_model_config": True}, {"ignored": ()}),
        ({"renormalize_logits": True}, {"ignored": ()}),
    ],
    ids=str,
)  # fmt: skip
def test_odd_values_are_read(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    defaults = read(**settings)
    assert {name: getattr(defaults, name) for name in expected} == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": "20"}, {"max_length": 20.5}, {"max_length": 0}, {"max_length": True},
        {"max_new_tokens": -1}, {"min_new_tokens": "3"}, {"no_repeat_ngram_size": 0.5},
        {"repetition_penalty": "1.0"}, {"repetition_penalty": 0}, {"do_sample": "false"},
        {"top_k": 0.5}, {"top_p": 1.5}, {"suppress_tokens": "3"}, {"suppress_tokens": [True]},
        {"eos_token_id": "2"}, {"eos_token_id": [[2]]}, {"eos_token_id": 2.5},
        {"decoder_start_token_id": "0"}, {"bad_words_ids": [3, 4]}, {"bad_words_ids": ["a"]},
        {"bad_words_ids": 3}, {"forced_bos_token_id": {"a": 1}}, {"forced_eos_token_id": SIZE},
        {"max_length": float("inf")}, {"min_length": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read(**settings)


def test_a_config_that_transformers_saves_says_nothing() -> None:
    """With every setting that it knows, most of them null."""
    saved = GenerationConfig(
        **BASE, suppress_tokens=[], bad_words_ids=[], sequence_bias={}
    ).to_dict()
    assert read(**saved) == read()
