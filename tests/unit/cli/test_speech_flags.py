"""`antiphon transcribe` takes what users of openai/whisper's command type."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from antiphon.cli.app import app
from antiphon.cli.speech_flags import TRANSCRIPTION, WhisperFlags, transcription_options
from antiphon.config.errors import ConfigurationError
from antiphon.inputs.calls.transcription import ALIASES, NAMES

# With openai/whisper's spelling, and what the option means to transcribe().
TYPED: dict[str, tuple[list[str], Any]] = {
    "initial_prompt": (["--initial_prompt", "Kim, Ann"], "Kim, Ann"),
    "carry_initial_prompt": (["--carry_initial_prompt", "True"], True),
    "condition_on_previous_text": (["--condition_on_previous_text", "False"], False),
    "best_of": (["--best_of", "3"], 3),
    "suppress_tokens": (["--suppress_tokens", "-1"], "-1"),
    "compression_ratio_threshold": (["--compression_ratio_threshold", "None"], None),
    "logprob_threshold": (["--logprob_threshold", "-0.5"], -0.5),
    "no_speech_threshold": (["--no_speech_threshold", "0.4"], 0.4),
    "clip_timestamps": (["--clip_timestamps", "3,5"], "3,5"),
    "word_timestamps": (["--word_timestamps", "True"], True),
    "prepend_punctuations": (["--prepend_punctuations", "('"], "('"),
    "append_punctuations": (["--append_punctuations", "?!"], "?!"),
}


@cache
def antiphon() -> Any:
    return typer.main.get_command(app)


def arguments(*words: str) -> dict[str, Any]:
    """What the command gets."""
    command = antiphon()
    context = command.commands["transcribe"].make_context(
        "transcribe",
        ["call.wav", "--model", "tiny", *words],
        token_normalize_func=command.context_settings["token_normalize_func"],
    )
    given: dict[str, Any] = context.params
    return given


def options(*words: str) -> dict[str, Any]:
    """Keywords of transcribe()."""
    return transcription_options(TRANSCRIPTION.collect(arguments(*words)))


@pytest.mark.parametrize("name", TYPED)
def test_flags_are_keywords_of_transcribe(name: str) -> None:
    words, value = TYPED[name]
    given = options(*words)
    assert given == {name: value}
    assert options(*[word.replace("_", "-") if word[:2] == "--" else word for word in words]) == (
        given
    )


def test_beams_are_parameters_of_sampling() -> None:
    given = arguments("--beam_size", "5", "--patience", "2", "--length_penalty", "0.5")
    assert (given["beam_size"], given["patience"], given["length_penalty"]) == (5, 2.0, 0.5)


def test_every_flag_is_a_keyword_of_transcribe() -> None:
    others = {"temperature_increment_on_fallback"}
    others |= {"hallucination_silence_threshold"}
    assert set(TRANSCRIPTION.types) - {*NAMES, *ALIASES} <= others
    assert set(TRANSCRIPTION.meanings) == set(TRANSCRIPTION.types)


def test_temperatures_are_openais() -> None:
    def temperatures(*words: str) -> Any:
        return options(*words).get("temperature")

    assert temperatures() is None
    assert temperatures("--temperature", "0") == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert temperatures("--temperature", "0.5") == [0.5, 0.7, 0.9]
    step = "--temperature_increment_on_fallback"
    assert temperatures(step, "None") == [0.0]
    assert temperatures("--temperature", "0.3", step, "0.5") == [0.3, 0.8]
    with pytest.raises(ConfigurationError, match=f"{step[2:]} must be a number or None, not 'x'"):
        options(step, "x")


def test_text_before_needs_windows_one_after_another() -> None:
    given = options("--condition_on_previous_text", "True")
    assert given == {"condition_on_previous_text": True, "mode": "sequential"}
    assert options("--mode", "batched", "--condition_on_previous_text", "True")["mode"] == "batched"


def test_o_is_a_folder_unless_it_is_an_option_of_the_engine() -> None:
    assert arguments("-o", "texts")["output_dir"] == Path("texts")
    assert arguments("--output_dir", "texts")["output_dir"] == Path("texts")
    given = arguments("-o", "max_num_seqs=4")
    assert given["output_dir"] is None
    assert given["engine_pairs"] == ["max_num_seqs=4"]


def test_switches_take_true_and_false() -> None:
    for words, value in ((["True"], True), (["False"], False), ([], True)):
        given = arguments("--skip_existing", *words, "--vad_filter", *words)
        assert (given["skip_existing"], given["vad_filter"]) == (value, value)
    assert arguments("--no-vad-filter")["vad_filter"] is False
    assert arguments("--initial_prompt", "True")["initial_prompt"] == "True"


def test_flags_about_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments("--fp16", "False", "--threads", "3", "--verbose", "False")
    flags = WhisperFlags(fp16=given["fp16"], threads=given["threads"], verbose=given["verbose"])
    assert flags.applied("tiny", {}) == ("tiny", {"num_threads": 3, "dtype": "float32"})
    assert WhisperFlags(fp16=True).applied("tiny", {"ray": False}) == ("tiny", {"ray": False})
    with pytest.raises(ConfigurationError, match="num_threads is given twice"):
        flags.applied("tiny", {"num_threads": 2})
    monkeypatch.setenv("HF_HUB_CACHE", "")
    (tmp_path / "tiny").mkdir()
    models = WhisperFlags(model_dir=tmp_path)
    assert models.applied("tiny", {}) == (str(tmp_path / "tiny"), {})
    assert os.environ["HF_HUB_CACHE"] == ""
    assert models.applied("base", {}) == ("base", {})
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path)
