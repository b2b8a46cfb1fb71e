"""The way from a caller's prompt to its request is short: nothing is read or checked twice."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antiphon.config.errors import AudioError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.arrays import read_array
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.unread import Unread

SOUND = (np.zeros(1000, np.float32), 16_000)


class Refusing(Mapping[str, Any]):
    """A mapping of a caller's own that can't be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["array"])

    def __len__(self) -> int:
        return 1


def expected(inputs: InputProcessor, prompt: Any) -> int:
    begun = inputs.begin(prompt, SamplingParams())
    assert isinstance(begun, Unread)
    return begun.expected_bytes()


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


@pytest.mark.parametrize(
    "prompt",
    [
        {"multi_modal_data": {"audio": SOUND}},
        {"prompt": "<|en|>", "multi_modal_data": {"audio": SOUND}},
        {"encoder_prompt": {"multi_modal_data": {"audio": SOUND}}, "decoder_prompt": [1, 2]},
    ],
)
def test_the_sound_of_a_prompt_is_found_in_every_form(whisper: InputProcessor, prompt: Any) -> None:
    assert expected(whisper, prompt) == 4000


@pytest.mark.parametrize("sound", [17, "no such file", {}, [], (1, 2, 3), Refusing()])
def test_what_cannot_be_read_is_expected_to_take_no_memory(
    whisper: InputProcessor, sound: Any
) -> None:
    prompt = {"multi_modal_data": {"audio": sound}}
    assert expected(whisper, prompt) == 0
    with pytest.raises(AudioError):
        whisper.prepare(prompt, SamplingParams())


def test_token_ids_that_can_be_read_once_only_are_left_for_the_request(
    whisper: InputProcessor,
) -> None:
    prompt = {"prompt_token_ids": iter([521, 522, 525, 529]), "multi_modal_data": {"audio": SOUND}}
    begun = whisper.begin(prompt, SamplingParams())
    assert isinstance(begun, Unread)
    assert begun.expected_bytes() == 4000
    assert begun.read().prompt_token_ids == [521, 522, 525, 529]


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_samples_are_the_engines_own_and_checked_at_any_rate(rate: int) -> None:
    samples = np.sin(np.arange(40_000, dtype=np.float32))
    heard = read_array(samples, rate, 16_000)
    assert heard.dtype == np.float32
    assert not np.shares_memory(heard, samples)
    for wrong in (np.nan, np.inf, -np.inf, 9.0, -9.0):
        damaged = samples.copy()
        damaged[33_000] = wrong
        with pytest.raises(AudioError, match=r"NaN or infinite|sample 33000"):
            read_array(damaged, rate, 16_000)


def test_none_puts_a_parameter_back_to_its_default() -> None:
    params = dataclasses.replace(
        SamplingParams(temperature=0.5, max_tokens=3), temperature=None, max_tokens=None
    )
    assert (params.temperature, params.max_tokens) == (0.0, None)
    assert dataclasses.replace(SamplingParams(), top_p=None).leaves_open("top_p")
