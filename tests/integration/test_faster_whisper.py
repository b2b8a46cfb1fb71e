"""Scripts for faster-whisper, with one import changed."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ctranslate2_files
import numpy as np
import pytest
from paths import RECORDINGS
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from antiphon.compat.faster_whisper import (
    BatchedInferencePipeline,
    VadOptions,
    WhisperModel,
    decode_audio,
    keywords,
)
from antiphon.compat.faster_whisper.vad import get_speech_timestamps
from antiphon.config.errors import ConfigurationError, InputError
from antiphon.inputs.audio.voice_model import VoiceModel, load_voice_model

EXPECTED: dict[str, str] = json.loads((RECORDINGS / "expected.json").read_text())
CALL, ALARM, LONG = (str(RECORDINGS / name) for name in ("call.wav", "wecker.wav", "long.opus"))


@pytest.fixture(scope="module")
def folder(whisper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as faster-whisper has it on disk, in eight bits."""
    folder = tmp_path_factory.mktemp("faster-whisper-shipped")
    model = WhisperForConditionalGeneration.from_pretrained(whisper_folder)
    tokenizer = AutoTokenizer.from_pretrained(whisper_folder)
    vocabulary, generation = tokenizer.get_vocab(), model.generation_config
    tokens = [f"<|unused{id_}|>" for id_ in range(model.config.vocab_size)]
    for token, id_ in vocabulary.items():
        tokens[id_] = token
    ctranslate2_files.write(
        model,
        tokens,
        folder,
        "int8",
        suppress_ids=generation.suppress_tokens,
        suppress_ids_begin=generation.begin_suppress_tokens,
        lang_ids=list(generation.lang_to_id.values()),
        alignment_heads=[[1, 0]],
    )
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[WhisperModel]:
    with WhisperModel(str(folder), device="cpu", compute_type="int8") as model:
        yield model


@pytest.mark.parametrize("language", ["en", "EN", "english", "en-US", "<|en|>"])
def test_a_language_in_any_spelling_is_told_by_its_code(model: WhisperModel, language: str) -> None:
    _, info = model.transcribe(CALL, language=language)
    assert (info.language, info.language_probability) == ("en", 1.0)


def test_the_first_example_of_their_readme(model: WhisperModel) -> None:
    segments, info = model.transcribe(ALARM, beam_size=5)
    assert f"{info.language} {info.language_probability:.2f}" == "de 1.00"
    lines = [f"[{s.start:.2f}s -> {s.end:.2f}s] {s.text}" for s in segments]
    assert len(lines) == 1
    assert lines[0].startswith("[0.00s -> ")
    assert lines[0].endswith(EXPECTED["wecker.wav"])
    assert info.all_language_probs is not None
    assert info.all_language_probs[0] == ("de", info.language_probability)
    assert info.duration == pytest.approx(len(decode_audio(ALARM)) / 16_000)
    assert info.transcription_options.beam_size == 5
    assert info.transcription_options.temperatures == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_nothing_is_transcribed_before_the_first_segment_is_asked_for(
    model: WhisperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    own = model.engine.segments

    def counted(samples: np.ndarray, **options: object) -> object:
        asked.append(options)
        return own(samples, **options)

    monkeypatch.setattr(model.engine, "segments", counted)
    segments, info = model.transcribe(CALL, language="en")
    assert info.language == "en"
    assert info.language_probability == 1.0
    assert not asked
    (segment,) = list(segments)
    assert len(asked) == 1
    assert segment.id == 1
    assert segment.seek == 0
    assert segment.text.strip() == EXPECTED["call.wav"]
    assert segment.tokens
    assert segment.avg_logprob < 0
    assert 0 < segment.compression_ratio < 2.4
    assert 0 <= segment.no_speech_prob < 1
    assert segment.words is None
    assert segment.temperature == 0.0


def test_the_batched_example_of_their_readme(model: WhisperModel) -> None:
    batched_model = BatchedInferencePipeline(model=model)
    segments, info = batched_model.transcribe(LONG, batch_size=16)
    texts = [segment.text for segment in segments]
    assert info.transcription_options.without_timestamps
    assert not info.transcription_options.condition_on_previous_text
    words = "".join(texts).split()
    expected = EXPECTED["long.opus"].split()
    assert sum(word in expected for word in words) > 0.8 * len(words)


def test_beams_search_before_samples_are_drawn(model: WhisperModel) -> None:
    """No text is good enough here, so that every temperature is tried."""
    options = {"log_prob_threshold": 1.0, "no_speech_threshold": None, "best_of": 2}
    segments, _ = model.transcribe(
        CALL, language="en", beam_size=3, temperature=[0.0, 0.1], **options
    )
    (segment,) = segments
    assert segment.temperature == 0.1
    segments, _ = model.transcribe(CALL, language="en", beam_size=3, temperature=0.0, **options)
    (segment,) = segments
    assert segment.temperature == 0.0
    assert segment.text.strip() == EXPECTED["call.wav"]


@pytest.mark.parametrize("options", [{}, {"without_timestamps": True}, {"beam_size": 1}])
def test_a_prefix_is_part_of_the_text(model: WhisperModel, options: dict[str, Any]) -> None:
    """As theirs: with timestamps, behind <|0.00|>."""
    whisper = model.engine.format
    options = {"language": "en", "word_timestamps": True, **options}
    segments, _ = model.transcribe(CALL, **options)
    (plain,) = segments
    segments, _ = model.transcribe(CALL, prefix="call seven", **options)
    (segment,) = segments
    assert segment.text.strip() == plain.text.strip() == EXPECTED["call.wav"]
    assert segment.start == pytest.approx(plain.start, abs=0.1)
    prefix = whisper.text_ids("call seven")
    assert segment.tokens[: len(prefix)] == prefix
    times = [(word.word.strip(), word.start) for word in segment.words]
    for (word, start), other in zip(times, plain.words, strict=True):
        assert word == other.word.strip()
        assert start == pytest.approx(other.start, abs=0.1)


def test_where_nobody_speaks_is_left_out(model: WhisperModel) -> None:
    speech, silence = decode_audio(CALL), np.zeros(6 * 16_000, np.float32)
    samples = np.concatenate([silence, speech, silence])
    segments, info = model.transcribe(
        samples, language="en", vad_filter=True, vad_parameters={"min_silence_duration_ms": 500}
    )
    assert info.duration == pytest.approx(len(samples) / 16_000)
    assert info.duration_after_vad < info.duration - 9
    assert info.vad_options == VadOptions(min_silence_duration_ms=500)
    segments = list(segments)
    assert segments[0].text.strip() == EXPECTED["call.wav"]
    assert 5 < segments[0].start < segments[0].end < info.duration - 5
    segments, info = BatchedInferencePipeline(model).transcribe(samples, language="en")
    assert "".join(segment.text for segment in segments).strip() == EXPECTED["call.wav"]
    assert info.duration_after_vad < info.duration - 9
    assert model.detect_language(samples, vad_filter=True)[0] == "en"
    (span,) = get_speech_timestamps(samples, speech_pad_ms=0)
    assert 5.5 < span["start"] / 16_000 < span["end"] / 16_000 < 6.5 + len(speech) / 16_000
    with pytest.raises(ConfigurationError, match="16000 Hz, not 8000"):
        get_speech_timestamps(samples, sampling_rate=8000)


@pytest.mark.parametrize("batched", [False, True])
def test_speech_is_looked_for_once(
    model: WhisperModel, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = np.zeros(4 * 16_000, np.float32)
    samples = np.concatenate([decode_audio(CALL), silence, decode_audio(CALL)])
    voice = load_voice_model()
    looked: list[int] = []

    def probabilities(samples: np.ndarray) -> np.ndarray:
        looked.append(len(samples))
        return VoiceModel.probabilities(voice, samples)

    options = {"vad_filter": True, "vad_parameters": {"min_silence_duration_ms": 500}}
    of_engine = model.engine.segments(
        samples, mode="batched" if batched else "sequential", timestamps=True,
        condition_on_previous_text=False if batched else None, **options,
    )  # fmt: skip
    expected = [model.engine.text_of(segment) for segment in of_engine]
    monkeypatch.setattr(voice, "probabilities", probabilities)
    face = BatchedInferencePipeline(model) if batched else model
    segments, info = face.transcribe(
        samples, temperature=0.0, beam_size=1, without_timestamps=False, **options
    )
    assert [segment.text for segment in segments] == expected
    assert looked == [len(samples)]
    assert info.duration_after_vad < info.duration - 2


def test_the_example_of_words_of_their_readme(model: WhisperModel) -> None:
    segments, _ = model.transcribe(CALL, language="en", word_timestamps=True)
    for segment in segments:
        assert segment.words is not None
        assert "".join(word.word for word in segment.words) == segment.text
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert segment.start <= times[0] <= times[-1] <= segment.end
        assert all(0 < word.probability <= 1 for word in segment.words)


def test_samples_files_and_streams_are_read(model: WhisperModel) -> None:
    texts = set()
    with Path(CALL).open("rb") as file:
        for audio in (CALL, Path(CALL), file, decode_audio(CALL)):
            segments, _ = model.transcribe(audio, language="en", condition_on_previous_text=False)
            texts.add("".join(segment.text for segment in segments).strip())
    assert texts == {EXPECTED["call.wav"]}


def test_languages(model: WhisperModel) -> None:
    language, probability, everything = model.detect_language(decode_audio(ALARM))
    assert (language, probability) == everything[0]
    assert language == "de"
    assert {code for code, _ in everything} == set(model.supported_languages)
    assert sum(value for _, value in everything) == pytest.approx(1.0)
    silence = np.zeros(16_000, np.float32)
    assert model.detect_language(silence) == ("en", 0.0, [])
    segments, info = model.transcribe(silence)
    assert list(segments) == []
    assert info.language == "en"


def test_stereo_is_split_where_it_is_asked_for() -> None:
    left, right = decode_audio(CALL, split_stereo=True)
    mixed = decode_audio(CALL)
    assert left.dtype == right.dtype == np.float32
    assert abs(len(left) - len(mixed)) <= 32
    assert np.array_equal(left, right)  # the file has one channel


def test_wrong_options_are_refused_before_anything_runs(model: WhisperModel) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'beamsize'"):
        model.transcribe(CALL, beamsize=5)
    with pytest.raises(InputError, match="unknown language"):
        model.transcribe(CALL, language="xx")
    with pytest.raises(ConfigurationError, match="features= is not read"):
        model.detect_language(features=np.zeros((80, 3000)))


def test_models_of_english_alone_take_other_languages_for_english(
    model: WhisperModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WhisperModel, "is_multilingual", False)
    settings = dict(keywords.DEFAULTS, multilingual=True)
    with caplog.at_level(logging.WARNING, "faster_whisper"):
        assert model._possible("de", settings) == "en"
    assert not settings["multilingual"]
    assert "English alone" in caplog.text
    assert model.supported_languages == ["en"]
