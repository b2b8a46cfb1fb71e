"""Transcription as callers meet it: options, languages, joining, silence, losses. No Ray: an engine
of plain objects stands for the real one."""

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from transcribing_engine import TranscribingEngine
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from antiphon.config.errors import (
    AudioError,
    ConfigurationError,
    PromptError,
    RequestExpired,
    SamplingError,
)
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.engine.outputs import CompletionOutput, Transcription
from antiphon.engine.transcribing.attempts import Decoded
from antiphon.engine.transcribing.languages import Spoken
from antiphon.engine.transcribing.segments import Segments
from antiphon.engine.transcribing.windows import Recording, Window
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.audio.sound import Skipped
from antiphon.inputs.calls.fallback import Fallback
from antiphon.inputs.calls.foreign_names import FOREIGN_NAMES
from antiphon.inputs.calls.transcription import ALIASES, NAMES
from antiphon.inputs.languages.lookup import language_code
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.whisper.format import WhisperFormat

RATE = 16_000


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> TranscribingEngine:
    return TranscribingEngine(whisper_folder)


@pytest.fixture(scope="module")
def recordings(whisper_folder: Path) -> Path:
    return whisper_folder.parent / "recordings"


@pytest.fixture(scope="module")
def call(recordings: Path) -> np.ndarray:
    return load_audio(recordings / "call.wav", RATE)


# ---------------------------------------------------------------------- whole recordings


def test_the_recordings_texts(engine: TranscribingEngine, recordings: Path) -> None:
    expected = json.loads((recordings / "expected.json").read_text())
    for name in ("wecker.wav", "long.opus"):  # tests of the real engine hear the others
        text = expected[name]
        result = engine.transcribe(recordings / name, chunk_seconds=3.0)
        assert result.text == text
        assert " ".join(segment.text for segment in result.segments) == text
        assert result.skipped == []
        assert result.language_probability is not None
        assert result.language_probability > 0.9


def test_segments_have_whispers_measures(engine: TranscribingEngine, call: np.ndarray) -> None:
    for timestamps in (True, False):
        (segment,) = engine.transcribe(call, language="en", timestamps=timestamps).segments
        assert segment.avg_logprob is not None
        assert -0.5 < segment.avg_logprob < 0.0
        assert segment.no_speech_prob is not None
        assert 0.0 < segment.no_speech_prob < 0.5


def test_logprobs_come_with_the_segments(engine: TranscribingEngine, call: np.ndarray) -> None:
    params = SamplingParams(logprobs=2)
    for timestamps in (True, False):
        result = engine.transcribe(call, params=params, timestamps=timestamps)
        (segment,) = result.segments
        assert segment.logprobs is not None
        assert len(segment.logprobs) == len(segment.token_ids) > 3
        for token, among in zip(segment.token_ids, segment.logprobs, strict=True):
            assert among[token].logprob <= 0.0
            assert len(among) in (2, 3)
        assert engine.inputs.decode(segment.token_ids).strip() == result.text
    assert engine.transcribe(call).segments[0].logprobs is None


def test_a_stop_string_ends_the_text_before_it(
    engine: TranscribingEngine, call: np.ndarray
) -> None:
    output = CompletionOutput(0, " call seven", engine.inputs.tokenizer(
        " call seven nine", add_special_tokens=False).input_ids, "stop")  # fmt: skip
    media = engine.inputs.clip(call)
    for kept, text in ((False, "call seven n"), (True, "call seven nin")):
        params = SamplingParams(stop="in", include_stop_str_in_output=kept)
        options = engine.inputs.check_transcription(params=params, timestamps=False)
        recording = Recording([Window(0.0, 2.0, media)], [], 2.0)
        joined = join(engine.inputs, recording, [output], options)
        assert joined.text == text
        assert joined.segments[0].text == text


def joined(pieces: list[list[int]], decode: Any) -> Transcription:
    """A recording whose windows gave these tokens."""
    format_ = SimpleNamespace(text_positions=lambda ids: list(range(len(ids))))
    inputs = SimpleNamespace(whisper=format_, audio=object(), decode=decode)
    windows = [Window(float(i), i + 1.0, None) for i in range(len(pieces))]  # type: ignore[arg-type]
    outputs = [CompletionOutput(0, decode(ids), ids, "stop") for ids in pieces]
    options = SimpleNamespace(
        timestamps=False, params=SamplingParams(), fallback=Fallback(), words=None
    )
    recording = Recording(windows, [], float(len(pieces)))
    return join(inputs, recording, outputs, options)


def join(
    inputs: Any, recording: Recording, outputs: list[CompletionOutput], options: Any
) -> Transcription:
    segments = Segments(inputs, options)
    for window, output in zip(recording.windows, outputs, strict=True):
        segments.add(window, Decoded(output, 0.0, 1.0, None))
    return segments.transcription(recording, Spoken("zh"))


def test_a_text_that_may_be_tried_again_takes_half_of_the_positions(
    engine: TranscribingEngine, call: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that repeats itself goes on to the end of its room; openai/whisper has the same limit."""
    request, limits = engine.plain.request, list[int]()

    def noted(payload: Any, prompt: Any, most: int, *rest: Any, **options: Any) -> Any:
        limits.append(most)
        return request(payload, prompt, most, *rest, **options)

    monkeypatch.setattr(engine.plain, "request", noted)
    engine.transcribe(call, language="en")
    engine.transcribe(call, language="en", temperature=0)
    engine.transcribe(call, language="en", params=SamplingParams(max_tokens=50))
    half = engine.inputs.whisper.positions // 2
    assert limits[0] == min(half, limits[1])
    assert limits[1] > 50
    assert limits[2] == 50
    engine.transcribe(call, language="en", max_tokens=40, params=SamplingParams(max_tokens=50))
    assert limits[3] == 40


@pytest.mark.parametrize(
    ("windows", "text"),
    [
        (["今天", "天气", "很好。"], "今天天气很好。"),
        ([" Good morning,", " Vietnam."], "Good morning, Vietnam."),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        ([" Hm", ".", ""], "Hm."),
    ],
)
def test_windows_are_joined_as_their_tokens_say(windows: list[str], text: str) -> None:
    result = joined([list(w.encode()) for w in windows], lambda ids: bytes(ids).decode())
    assert result.text == text
    assert [segment.text for segment in result.segments] == [w.strip() for w in windows if w]


def test_a_character_may_begin_in_one_window_and_end_in_the_next() -> None:
    first, second = "好".encode()[:2], "好".encode()[2:]
    result = joined([list(first), list(second)], lambda ids: bytes(ids).decode(errors="replace"))
    assert result.text == "好"


# ---------------------------------------------------------------------- silence and losses


@pytest.mark.parametrize("decibels", [-50, -75])
def test_quiet_speech_is_heard(engine: TranscribingEngine, call: np.ndarray, decibels: int) -> None:
    quiet = call / np.sqrt(np.mean(call**2)) * 10 ** (decibels / 20)
    assert engine.transcribe(quiet, language="en").text == "call seven nine zero"


def test_a_few_words_in_a_long_silent_window_are_heard(
    engine: TranscribingEngine, call: np.ndarray
) -> None:
    sound = np.concatenate([call * 0.01, np.zeros(8 * RATE - len(call), np.float32)])
    assert engine.transcribe(sound, language="en").text == "call seven nine zero"


@pytest.mark.parametrize(
    "silence",
    [
        np.zeros(20 * RATE, np.float32),
        np.full(20 * RATE, 0.01, np.float32),  # an offset of the recorder's
        np.random.default_rng(0).integers(-1, 2, 20 * RATE).astype(np.int16),  # dither
    ],
)
def test_only_digital_silence_is_skipped(engine: TranscribingEngine, silence: np.ndarray) -> None:
    engine.asked.clear()
    for mode in ("batched", "sequential"):
        result = engine.transcribe(silence, mode=mode, condition_on_previous_text=False)
        assert (result.text, result.segments, result.duration) == ("", [], 20.0)
        assert result.skipped == [Skipped(0.0, 20.0, "digital silence")]
        assert result.duration_after_vad == 0.0
    assert engine.asked == []
    with pytest.raises(AudioError, match="digital silence"):
        engine.detect(silence)


def test_silent_windows_between_others_are_told(
    engine: TranscribingEngine, call: np.ndarray
) -> None:
    pause = np.zeros(30 * RATE, np.float32)
    result = engine.transcribe(np.concatenate([call, pause, call]), language="en")
    (span,) = result.skipped
    assert span.reason == "digital silence"
    assert span.end - span.start > 8
    assert result.text == "call seven nine zero call seven nine zero"
    assert result.segments[-1].start >= span.end


def test_what_is_damaged_is_told_in_the_result(
    engine: TranscribingEngine, recordings: Path
) -> None:
    content = bytearray((recordings / "door.mp3").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    result = engine.transcribe(bytes(content))
    assert result.text == "open the gate of the office"
    assert {span.reason for span in result.skipped} == {"undecodable"}


# ---------------------------------------------------------------------- languages


def test_detection_equals_transformers(
    engine: TranscribingEngine, recordings: Path, whisper_folder: Path
) -> None:
    oracle = WhisperForConditionalGeneration.from_pretrained(whisper_folder).float().eval()
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    ids = torch.tensor(sorted(oracle.generation_config.lang_to_id.values()))
    for name in ("call.wav", "wecker.wav", "light.flac"):
        samples = load_audio(recordings / name, RATE)
        features = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
        start = torch.tensor([[oracle.generation_config.decoder_start_token_id]])
        with torch.no_grad():
            logits = oracle(input_features=features, decoder_input_ids=start).logits[0, -1, ids]
        wanted = dict(zip(ids.tolist(), logits.softmax(-1).tolist(), strict=True))
        languages = engine.detect(samples)
        assert list(languages) == sorted(languages, key=lambda code: -languages[code])
        assert next(iter(languages)) == ("de" if name == "wecker.wav" else "en")
        for code, probability in languages.items():
            token = engine.inputs.whisper.languages[code]  # type: ignore[union-attr]
            assert probability == pytest.approx(wanted[token], abs=1e-4)
        assert sum(languages.values()) == pytest.approx(1.0)


def test_probabilities_of_99_tokens_equal_transformers(checkpoints: Any) -> None:
    folder, oracle = checkpoints("whisper")
    plain = PlainEngine(folder)
    sound = (np.random.default_rng(0).standard_normal(RATE) * 0.1).astype(np.float32)
    named = tuple(int(i) for i in np.random.default_rng(1).permutation(99))
    several = [
        SamplingParams(logprob_token_ids=named, max_tokens=2),
        SamplingParams(logprob_token_ids=(62, 63), max_tokens=2),
        SamplingParams(logprobs=3, max_tokens=2),
        SamplingParams(max_tokens=2),
    ]
    for params in several:  # they run together
        plain.submit(plain.request(sound, [61], 2, params=params))
    ends = plain.run()
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        sound, sampling_rate=RATE, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        logits = oracle(input_features=features, decoder_input_ids=torch.tensor([[61]])).logits
    wanted = logits[0, -1].log_softmax(-1)
    first, second, third = (ends[i].logprobs[0] for i in range(3))
    assert ends[3].logprobs == []
    assert sorted(first.ids[1:]) == list(range(99))
    np.testing.assert_allclose(first.logprobs[1:], wanted[first.ids[1:]], atol=1e-3)
    assert first.logprobs[1:] == sorted(first.logprobs[1:], reverse=True)
    assert sorted(second.ids[1:]) == [62, 63]
    np.testing.assert_allclose(second.logprobs[1:], wanted[second.ids[1:]], atol=1e-3)
    assert third.ids[1:] == wanted.topk(3).indices.tolist()


@pytest.mark.parametrize("options", [{"logprob_token_ids": []}, {"logprob_token_ids": [1, 1]},
                                     {"logprob_token_ids": [1], "logprobs": 3}])  # fmt: skip
def test_named_tokens_are_distinct_and_stand_alone(options: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match="logprob"):
        SamplingParams(**options)


def test_named_tokens_survive_a_copy() -> None:
    params = SamplingParams(logprob_token_ids=range(50))
    assert replace(params, seed=3).logprob_token_ids == tuple(range(50))


KNOWN = ["de", "en", "es", "he", "jw", "my", "no", "pt", "tl", "yue", "zh"]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("de", "de"), ("DE", "de"), ("German", "de"), ("german", "de"), (" GERMAN ", "de"),
        ("de-DE", "de"), ("de_AT", "de"), ("<|de|>", "de"), ("<|DE|>", "de"), ("english", "en"),
        ("en-GB", "en"), ("zh-Hans", "zh"), ("zh-Hant-TW", "zh"), ("Mandarin", "zh"),
        ("cmn", "zh"), ("cantonese", "yue"), ("yue", "yue"), ("Castilian", "es"), ("burmese", "my"),
        ("pt-BR", "pt"), ("nb-NO", "no"), ("fil", "tl"), ("jv", "jw"),
        ("Javanese", "jw"), ("iw", "he"),
        (None, None), ("auto", None),
    ],
)  # fmt: skip
def test_languages_in_any_spelling(language: str | None, code: str | None) -> None:
    assert language_code(language, KNOWN) == code


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("Germann", "unknown language 'Germann'. Did you mean 'german'?"),
        ("englsh", "Did you mean 'english'?"),
        ("klingon", "unknown language 'klingon'. Known ones: de, en, es"),
        ("x", "Known ones: de, en"),
        ("French", r"does not know the language 'French' \(fr\). It knows: de, en"),
        ("fr", r"does not know the language 'fr' \(fr\)"),
        ("", "the language is empty"),
        ("<||>", "the language is empty"),
        (5, "not a int"),
        (["de"], "not a list"),
        ("de" * 10_000, "unknown language"),
    ],
)
def test_unknown_languages(language: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message) as refused:
        language_code(language, KNOWN)
    assert len(str(refused.value)) < 300


def test_every_spelling_gives_the_same_text(engine: TranscribingEngine, call: np.ndarray) -> None:
    for language in ("English", "<|en|>"):
        result = engine.transcribe(call, language=language, task="Transcribe")
        assert (result.text, result.language) == ("call seven nine zero", "en")
        assert result.language_probability is None


def test_english_only_checkpoints_take_any_spelling_of_english(engine: TranscribingEngine) -> None:
    assert engine.inputs.whisper is not None
    only: WhisperFormat = object.__new__(WhisperFormat)
    only.__dict__.update({**vars(engine.inputs.whisper), "multilingual": False})
    for language in (None, "en", "EN", "English", "en-GB", "<|en|>", "auto"):
        assert only.check(language, "TRANSCRIBE") == ("en", "transcribe")
    for language, task in (("de", "transcribe"), ("en", "translate"), (7, "transcribe")):
        with pytest.raises(PromptError, match="transcribes English only"):
            only.check(language, task)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"num_beams": 5}, ConfigurationError, "no option 'num_beams': give beam_size="),
        ({"beam_size": 0}, SamplingError, "beam_size must be between 1"),
        ({"prompt": "Hello"}, ConfigurationError, "give initial_prompt="),
        ({"word_timestamps": "yes"}, PromptError, "word_timestamps must be True or False"),
        ({"prepend_punctuations": 5}, PromptError, "prepend_punctuations must be a text"),
        ({"langauge": "en"}, ConfigurationError, "no option 'langauge'. Did you mean 'language'"),
        ({"frobnicate": 1}, ConfigurationError, "Valid names: append_punctuations, beam_size"),
        ({"task": "translte"}, PromptError, "unknown task 'translte'. Did you mean 'translate'"),
        ({"task": 5}, PromptError, "unknown task"),
        ({"language": "klingon"}, PromptError, "unknown language"),
        ({"timestamps": "no"}, PromptError, "timestamps must be True or False, not 'no'"),
        ({"chunk_seconds": 0.5}, PromptError, "between 1 and the model's window of 8, not 0.5"),
        ({"chunk_seconds": 30}, PromptError, "between 1 and"),
        ({"chunk_seconds": "3"}, PromptError, "not '3'"),
        ({"chunk_seconds": math.nan}, PromptError, "not nan"),
        ({"chunk_seconds": True}, PromptError, "not True"),
        ({"priority": 1.5}, PromptError, "priority must be a whole number"),
        ({"timeout": -1}, PromptError, "timeout must be seconds"),
        ({"timeout": "5"}, PromptError, "timeout must be seconds"),
        ({"timeout": math.nan}, PromptError, "timeout must be seconds"),
        ({"params": {"temperature": 0}}, SamplingError, "params must be SamplingParams, not dict"),
        ({"params": SamplingParams(n=2, temperature=1.0)}, SamplingError, "not n=2"),
        ({"params": SamplingParams(logit_bias={9999: 1.0})}, SamplingError, "vocabulary"),
    ],
)
def test_options_are_checked_before_any_sound_is_read(
    engine: TranscribingEngine, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        engine.inputs.check_transcription(**options)
    with pytest.raises(kind, match=message):
        engine.transcribe("/no/such/file.wav", **options)


def test_options_in_their_plain_form(engine: TranscribingEngine) -> None:
    options = engine.inputs.check_transcription(
        language="German",
        task="Translate",
        chunk_seconds=np.float32(3),
        timestamps=np.True_,
        priority=np.int64(2),
        timeout=5,
    )
    assert (options.language, options.task, options.longest) == ("de", "translate", 48_000)
    assert (options.timestamps, options.priority, options.timeout) == (True, 2, 5.0)


def test_no_refused_name_is_an_option() -> None:
    assert not {*NAMES, *ALIASES} & set(FOREIGN_NAMES)


def test_a_model_that_reads_text_does_not_transcribe(t5_folder: Path) -> None:
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(t5_folder))))
    with pytest.raises(PromptError, match=r"does not transcribe audio: use generate\(\)"):
        inputs.check_transcription()


def test_priority_and_what_is_left_of_the_time_reach_every_request(
    engine: TranscribingEngine, call: np.ndarray
) -> None:
    engine.asked.clear()
    engine.transcribe(np.concatenate([call] * 5), chunk_seconds=8, priority=3, timeout=60.0)
    assert len(engine.asked) >= 3, "language detection and two windows"
    assert [asked["priority"] for asked in engine.asked] == [3] * len(engine.asked)
    left = [asked["timeout"] for asked in engine.asked]
    assert all(0 < seconds <= 60 for seconds in left)
    assert left[-1] < left[0], "one budget for the whole call"


@pytest.mark.parametrize("stage", ["reading", "detection", "decoding"])
def test_a_timeout_ends_the_call_wherever_it_is(
    engine: TranscribingEngine, call: np.ndarray, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(engine, "run_in_thread" if stage == "reading" else "result", never)
    language = "en" if stage == "decoding" else None
    with pytest.raises(RequestExpired, match=r"its deadline passed after 0\.1 s"):
        engine.transcribe(call, language=language, timeout=0.1)
