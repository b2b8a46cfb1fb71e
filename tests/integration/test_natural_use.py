"""What users of other tools pass by habit: accepted, or refused early and by name."""

import io
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import RECORDINGS

from antiphon import Engine, SamplingParams
from antiphon.actors import ray_address
from antiphon.config.errors import AudioError, ConfigurationError, PromptError, SamplingError
from antiphon.config.options import ModelOptions
from antiphon.engine.outputs import Transcription
from antiphon.families.checkpoint import ModelConfig, architecture_of
from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.calls.options import all_prompts, check_recordings
from antiphon.inputs.calls.transcription import NAMES
from antiphon.inputs.prompts import token_ids

CALL = RECORDINGS / "call.wav"
SILENCE = np.zeros(16000, np.float32)
SPARSE = torch.ones(16000).to_sparse()
NUMBERS = "in words: 42"


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> Iterator[Engine]:
    with Engine(str(t5_folder), ray=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> Iterator[Engine]:
    with Engine(str(whisper_folder), ray=False) as engine:
        yield engine


@pytest.mark.parametrize(
    "recordings",
    [
        "x.wav",
        CALL,
        b"RIFF",
        bytearray(b"RIFF"),
        memoryview(b"RIFF"),
        io.BytesIO(b"RIFF"),
        None,
        5,
        SILENCE,
        torch.zeros(16000),
        array("h", [0, 1]),
        [0.0, 0.5],
        [1, 2, 3],
        (SILENCE, 16000),
        (16000, SILENCE),
        {"array": SILENCE, "sampling_rate": 16000},
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_recording_is_not_several(recordings: Any) -> None:
    with pytest.raises(PromptError, match="give a list of recordings, not"):
        check_recordings(recordings)


@pytest.mark.parametrize(
    "recordings",
    [
        [],
        (),
        ["a.wav", 5],
        [5, "a.wav"],
        ("a.wav", "b.wav"),
        np.array(["a.wav"]),
        np.zeros((2, 9)),
        iter(["a.wav"]),
        {"a.wav"},
        [(SILENCE, 16000)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_several_recordings_in_any_collection(recordings: Any) -> None:
    check_recordings(recordings)


@pytest.mark.parametrize(
    "prompts", [None, 5, 1.5, b"x", Path("x"), object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_prompt_is_refused_as_a_whole(t5: Engine, prompts: Any) -> None:
    with pytest.raises(PromptError, match="prompts must be a str, a mapping or a list of them"):
        t5.generate(prompts)
    assert all_prompts("x") == ["x"]


@pytest.mark.parametrize("ids", [[1.5], ["5"], "5", b"5", [True], 5, [None], [[5]]], ids=repr)
def test_token_ids_are_whole_numbers(ids: Any) -> None:
    with pytest.raises(PromptError, match="token ids must be a sequence of whole numbers"):
        token_ids(ids)
    assert token_ids(np.array([5, 1])) == (5, 1)


@pytest.mark.parametrize("priority", ["high", 1.5, [1], True], ids=repr)
def test_a_priority_is_a_whole_number_everywhere(
    t5: Engine, whisper: Engine, priority: Any
) -> None:
    calls = [
        lambda: t5.generate(NUMBERS, use_tqdm=False, priority=priority),
        lambda: t5.generate_as_completed([NUMBERS], priority=priority),
        lambda: list(t5.stream(NUMBERS, priority=priority)),
        lambda: whisper.transcribe(CALL, priority=priority),
        lambda: whisper.detect_language(CALL, priority=priority),
    ]
    for call in calls:
        with pytest.raises(PromptError, match="priority must be a whole number"):
            call()


def test_parameters_by_the_name_that_vllm_has(t5: Engine, whisper: Engine) -> None:
    one = SamplingParams(max_tokens=1)
    assert t5.generate(NUMBERS, sampling_params=one, use_tqdm=False)[0].outputs[0].text == "forty"
    assert "".join(delta.text for delta in t5.stream(NUMBERS, sampling_params=one)) == "forty"
    assert (
        whisper.transcribe(CALL, language="en", timestamps=False, sampling_params=one).text
        == "call"
    )
    with pytest.raises(SamplingError, match="give one of them"):
        whisper.transcribe(CALL, params=one, sampling_params=one)
    with pytest.raises(SamplingError, match="give one of them"):
        list(t5.stream(NUMBERS, one, sampling_params=one))


def test_every_transcription_takes_the_tokens_of_a_window(whisper: Engine) -> None:
    options: dict[str, Any] = {"language": "en", "timestamps": False, "max_tokens": 1}
    sound = read_sound(CALL, 16_000).samples
    twice = np.concatenate([sound, np.zeros(8 * 16_000 - len(sound), np.float32), sound])
    (of_all,) = whisper.transcribe_all([CALL], **options)
    *_, streamed = whisper.stream_segments(CALL, **options)
    for result in (whisper.transcribe(CALL, **options), of_all, streamed):
        assert isinstance(result, Transcription)
        assert result.text == "call"
    assert whisper.transcribe(twice, **options, mode="sequential").text == "call call"
    for wrong in (0, 1.5, "many"):
        with pytest.raises(SamplingError, match="max_tokens"):
            whisper.transcribe(CALL, max_tokens=wrong)


@pytest.mark.parametrize("name", NAMES)
def test_none_says_nothing_to_transcribe(name: str, whisper: Engine) -> None:
    assert whisper.transcribe(CALL, **{name: None}).text == "call seven nine zero"


def test_unknown_keywords_of_language_detection(whisper: Engine) -> None:
    with pytest.raises(
        ConfigurationError, match="has no option 'timeuot'\\. Did you mean 'timeout'"
    ):
        whisper.detect_language(CALL, timeuot=3)
    with pytest.raises(ConfigurationError, match="has no option 'language'"):
        whisper.detect_language(CALL, language="en")


def test_transformers_names_of_languages_are_answered_with_ours(t5: Engine) -> None:
    with pytest.raises(ConfigurationError, match="'src_lang': give source_language="):
        t5.generate(NUMBERS, src_lang="eng_Latn", tgt_lang="fra_Latn")


def test_an_object_whose_attributes_raise_harms_itself_alone(whisper: Engine) -> None:
    bad = (SPARSE, 16000)  # asking for its size raises a RuntimeError
    good, failed = whisper.transcribe_all([CALL, bad], language="en")
    assert getattr(good, "text", None) == "call seven nine zero"
    assert isinstance(failed, AudioError)
    for call in (whisper.transcribe, whisper.detect_language):
        with pytest.raises(AudioError, match="Sparse"):
            call(bad)


def test_an_empty_path(whisper: Engine) -> None:
    with pytest.raises(AudioError, match="the path of the recording is empty"):
        whisper.transcribe("")


@pytest.mark.parametrize(
    ("language", "code"),
    [("eng", "en"), ("DEU", "de"), ("ger", "de"), ("deu-AT", "de"), ("ENG_us", "en")],
)
def test_languages_by_three_letters(whisper: Engine, language: str, code: str) -> None:
    assert whisper._async.inputs.check_transcription(language=language).language == code


@pytest.mark.parametrize(
    "address", ["nope", "127.0.0.1", ":6379", "host:port", "127.0.0.1:99999999", "http://x"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigurationError, match="no Ray cluster at"):
        ray_address.check_reachable(address)


def test_an_architecture_is_known_before_transformers_is_imported(
    t5_folder: Path, whisper_folder: Path
) -> None:
    for folder, reads in ((t5_folder, "text"), (whisper_folder, "audio")):
        options = ModelOptions(model=str(folder))
        assert architecture_of(options) == (ModelConfig.load(options).architecture, reads)
    code = (
        "import sys\n"
        "from antiphon.families.checkpoint import architecture_of\n"
        "from antiphon.config.options import ModelOptions\n"
        f"architecture_of(ModelOptions(model={str(t5_folder)!r}))\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_generation_as_completed(t5: Engine) -> None:
    prompts = [NUMBERS, None, "in words: 7"]
    results = dict(t5.generate_as_completed(iter(prompts), SamplingParams(max_tokens=8)))  # type: ignore[arg-type]
    assert [results[0].outputs[0].text, results[2].outputs[0].text] == ["forty two", "seven"]
    assert isinstance(results[1].error, PromptError)
    for single in (NUMBERS, {"prompt": NUMBERS}, None):
        with pytest.raises(PromptError, match="give a list of prompts"):
            t5.generate_as_completed(single)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="has no option 'temperature'"):
        t5.generate_as_completed(prompts, temperature=1.0)  # type: ignore[arg-type]
