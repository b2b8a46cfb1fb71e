"""Prompts: which forms are taken, which are refused, and in which words."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import T5

from antiphon.config.errors import (
    PromptError,
    SamplingError,
)
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import parse

SILENCE = (np.zeros(1000, np.float32), 16_000)


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(t5_folder), max_encoder_len=20)))


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


def test_a_single_text_goes_to_the_half_that_reads_text() -> None:
    assert parse("hello", "text").encoder.text == "hello"
    both = parse({"prompt": "<|en|>", "multi_modal_data": {"audio": SILENCE}}, "audio")
    assert both.encoder.audio is SILENCE
    assert both.decoder.text == "<|en|>"
    explicit = parse({"encoder_prompt": "hello", "decoder_prompt": [1, 2]}, "text")
    assert (explicit.encoder.text, explicit.decoder.token_ids) == ("hello", (1, 2))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (17, "must be a str or a mapping"),
        ({"promt": "x"}, "Did you mean 'prompt'"),
        ({"prompt": 3}, "'prompt' must be a str"),
        ({"prompt": "x", "prompt_token_ids": [1]}, "not both"),
        ({"prompt": "x", "multi_modal_data": {"sound": 1}}, "unknown key 'sound'"),
        ({"multi_modal_data": [1]}, "must be a mapping"),
        ({"decoder_prompt": "x"}, "needs an 'encoder_prompt'"),
        (
            {"encoder_prompt": "x", "decoder_prompt": {"multi_modal_data": {"audio": SILENCE}}},
            "media belong to 'encoder_prompt'",
        ),
        ({"prompt_token_ids": ["a"]}, "whole numbers"),
        ({"prompt_token_ids": []}, "the encoder prompt is empty"),
        ({"prompt_token_ids": [5, 77]}, "token id 77; the vocabulary has 0 to 76"),
        ({"prompt_token_ids": [-1]}, "token id -1"),
        ({"prompt_token_ids": [5] * 21}, "21 tokens of text are over the encoder's 20"),
        ({"multi_modal_data": {"audio": SILENCE}}, "this model takes no audio: it takes text$"),
        ({"multi_modal_data": {"video": "a.mp4"}}, "this model takes no videos: it takes text$"),
        ({}, "the prompt is empty"),
        ("\ud800", r"character 0 of the text is '\\ud800', half of a surrogate pair"),
        ({"prompt": "in words: \ud83d"}, r"character 10 of the text is '\\ud83d'.* broken UTF-16"),
        ("caf\udce9", "it stands for the byte 0xE9, which is not UTF-8 text"),
        (
            {"encoder_prompt": "x", "decoder_prompt": "\udfff"},
            r"character 0 of the text is '\\udfff'",
        ),
        ({"encoder_prompt": "x", "decoder_prompt": [0] * 600}, "leaves no room"),
        ({"encoder_prompt": "x", "decoder_prompt": [0, 99]}, "the decoder prompt has token id 99"),
    ],
)
def test_bad_prompts(t5: InputProcessor, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        t5.prepare(prompt, SamplingParams())


def test_a_whisper_prompt_needs_audio_within_the_window(whisper: InputProcessor) -> None:
    with pytest.raises(PromptError, match="this model listens"):
        whisper.prepare("hello", SamplingParams())
    with pytest.raises(PromptError, match=r"this model takes no videos: it takes audio$"):
        whisper.prepare({"multi_modal_data": {"video": "a.mp4"}}, SamplingParams())
    with pytest.raises(
        PromptError, match=r"9.0 s of audio are over the model's window of 8 s: use transcribe\(\)"
    ):
        whisper.prepare(
            {"multi_modal_data": {"audio": (np.zeros(9 * 16_000, np.float32), 16_000)}},
            SamplingParams(),
        )


def test_decoder_prompts_begin_with_the_start_token(
    whisper: InputProcessor, t5: InputProcessor
) -> None:
    prompt = {
        "prompt": "<|en|><|transcribe|><|notimestamps|>",
        "multi_modal_data": {"audio": SILENCE},
    }
    assert whisper.prepare(prompt, SamplingParams()).prompt_token_ids == [521, 522, 525, 529]
    assert (
        t5.prepare(
            {"encoder_prompt": "7", "decoder_prompt": "seven"}, SamplingParams()
        ).prompt_token_ids[0]
        == 0
    )
    assert t5.prepare("7", SamplingParams()).prompt_token_ids == [0]


def test_equal_content_has_equal_keys(t5: InputProcessor) -> None:
    first, second, third = (
        t5.prepare(text, SamplingParams()).media.key
        for text in ("in words: 7", "in words: 7", "in words: 8")
    )
    assert first == second != third


@pytest.mark.parametrize(
    "params", [{"stop_token_ids": [77]}, {"logit_bias": {-1: 1.0}}, {"allowed_token_ids": [1000]}]
)
def test_sampling_ids_outside_the_vocabulary(t5: InputProcessor, params: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match="the vocabulary has 0 to 76"):
        t5.prepare("7", SamplingParams(**params))


def test_rules_come_from_the_generation_config(tmp_path: Path, checkpoints) -> None:
    folder, _ = checkpoints("bart")
    copied = shutil.copytree(folder, tmp_path / "bart")
    settings = {
        "decoder_start_token_id": 2,
        "eos_token_id": [2, 7],
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "min_length": 10,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[5], [6, 7]],
        "max_length": 50,
    }
    (copied / "generation_config.json").write_text(json.dumps(settings))
    shutil.copy(T5 / "tokenizer.json", copied)
    shutil.copy(T5 / "tokenizer_config.json", copied)
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(copied))))
    rules = inputs.rules(1, SamplingParams(stop_token_ids=[9]), False)
    assert (rules.stop_ids, rules.suppress, rules.forced_first, rules.forced_last) == (
        (2, 7, 9),
        (5,),
        0,
        2,
    )
    assert (rules.min_tokens, rules.no_repeat_ngram) == (9, 3)
    assert inputs.rules(2, SamplingParams(ignore_eos=True), False).stop_ids == ()
    assert inputs.rules(2, SamplingParams(), False).forced_first is None
    assert inputs.max_tokens(1, SamplingParams()) == 49
    assert inputs.max_tokens(1, SamplingParams(max_tokens=5)) == 5
