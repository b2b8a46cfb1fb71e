"""Retries, earlier text, languages and cuts of transcribe(), with a model that plays a script."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_speech import BAD, GOOD, LOOP, RATE, ScriptedEngine, noise

from antiphon.config.errors import ConfigurationError, PromptError, SamplingError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.outputs import Segment
from antiphon.engine.transcribing.stream import StreamingTranscriber
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.inputs.audio.sound import Skipped
from antiphon.inputs.calls.fallback import Fallback


@pytest.fixture(scope="module")
def engine(whisper_folder: Path) -> ScriptedEngine:
    return ScriptedEngine(whisper_folder)


# ---------------------------------------------------------------------- retries


def test_a_window_is_tried_until_it_is_good(engine: ScriptedEngine) -> None:
    answers = [LOOP, (BAD, -1.5, 0.1), GOOD]
    engine.begin(lambda asked: answers[asked.number])
    (segment,) = engine.transcribe(3).segments
    assert (segment.text, segment.temperature) == (GOOD, 0.4)
    assert segment.compression_ratio < 2.4
    assert [asked.params.temperature for asked in engine.asked] == [0.0, 0.2, 0.4]
    assert len({asked.media.key for asked in engine.asked}) == 1, "one content key: one encode"


def test_the_last_attempt_counts_where_all_fail(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: LOOP)
    (segment,) = engine.transcribe(3, temperature=[0.0, 0.5]).segments
    assert segment.temperature == 0.5
    assert segment.compression_ratio > 2.4
    assert len(engine.asked) == 2


def test_what_is_said_to_silence_is_dropped(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: (BAD, -1.5, 0.9))
    result = engine.transcribe(3)
    assert (result.text, result.segments, len(engine.asked)) == ("", [], 1)
    assert result.skipped == [Skipped(0.0, 3.0, "no speech")]
    said = engine.transcribe(3, no_speech_threshold=None)
    assert (said.text, said.skipped) == (BAD, [])


@pytest.mark.parametrize("options", [{"temperature": 0}, {"params": SamplingParams(temperature=0)}])
def test_one_temperature_is_one_attempt(engine: ScriptedEngine, options: dict[str, Any]) -> None:
    engine.begin(lambda asked: LOOP)
    assert engine.transcribe(3, **options).segments[0].temperature == 0.0
    assert len(engine.asked) == 1


def test_the_likeliest_of_several_samples_counts(engine: ScriptedEngine) -> None:
    answers = [(GOOD, -0.9, 0.0), (BAD, -0.1, 0.0), (GOOD, -0.8, 0.0)]
    engine.begin(lambda asked: answers[asked.sample])
    assert engine.transcribe(3, temperature=0.5, best_of=3).text == BAD
    assert [asked.sample for asked in engine.asked] == [0, 1, 2]


def test_a_short_encoder_window_that_fails_is_encoded_anew_in_full(whisper_folder: Path) -> None:
    engine = ScriptedEngine(whisper_folder, "auto")
    engine.begin(lambda asked: GOOD if asked.media.num_tokens == 400 else LOOP)
    (segment,) = engine.transcribe(2).segments
    assert (segment.text, segment.temperature) == (GOOD, 0.0)
    short, full = (asked.media for asked in engine.asked)
    assert short.num_tokens < full.num_tokens
    assert len(full.payload) == engine.inputs.audio.window  # type: ignore[union-attr]
    np.testing.assert_array_equal(full.payload[: len(short.payload)], short.payload)
    assert not full.payload[len(short.payload) :].any()
    engine.begin(lambda asked: LOOP)
    engine.transcribe(2, temperature=(0.0, 0.7))
    assert [asked.params.temperature for asked in engine.asked] == [0.0, 0.0, 0.7]


# ---------------------------------------------------------------------- windows in turn


def test_the_next_window_begins_where_the_text_ended(engine: ScriptedEngine) -> None:
    def script(asked: Any) -> list[int]:
        if asked.number == 0:
            cut_off = [engine.time(6.0), *engine.ids(BAD)]
            return [*engine.said(0.0, GOOD, 3.0), *engine.said(3.0, GOOD, 6.0), *cut_off]
        return engine.said(0.0, BAD, 2.0)

    engine.begin(script)
    windows: list[float] = []
    result = engine.transcribe(
        15, mode="sequential", progress=lambda done, in_all: windows.append(round(done, 6))
    )
    assert [(s.id, s.seek, s.start, s.end) for s in result.segments] == [
        (0, 0, 0.0, 3.0), (1, 0, 3.0, 6.0), (2, 600, 6.0, 8.0), (3, 1400, 14.0, 15.0),
    ]  # fmt: skip
    assert windows == [0.0, 6.0, 14.0, 15.0]
    whisper = engine.inputs.whisper
    assert whisper is not None
    first, second, third = (asked.prompt for asked in engine.asked)
    assert first[0] == whisper.start_id
    said = [*engine.said(0.0, GOOD, 3.0), *engine.said(3.0, GOOD, 6.0)]
    assert second == [whisper.previous_id, *said, *first]
    assert third == [whisper.previous_id, *said, *engine.said(0.0, BAD, 2.0), *first]
    positions = [asked.readouts[0].position for asked in engine.asked]
    assert positions == [len(prompt) - len(first) for prompt in (first, second, third)]


def test_earlier_text_can_be_left_out(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: engine.said(0.0, GOOD, 4.0))
    engine.transcribe(20, mode="sequential", condition_on_previous_text=False, initial_prompt="go")
    first, *others = (asked.prompt for asked in engine.asked)
    assert first[1:-3] == engine.ids("go")
    assert all(prompt == first[-3:] for prompt in others)


def test_a_high_temperature_resets_the_prompt(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: LOOP if asked.params.temperature < 0.6 else engine.said(0, GOOD, 4))
    engine.transcribe(16, mode="sequential", initial_prompt="go")
    prompts = [asked.prompt for asked in engine.asked if asked.params.temperature == 0]
    assert len(prompts) == 2
    assert len(prompts[1]) == 3


def test_silence_is_gone_over(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: (BAD, -1.5, 0.9) if asked.number == 0 else GOOD)
    result = engine.transcribe(16, mode="sequential")
    assert [(s.start, s.text) for s in result.segments] == [(8.0, GOOD)]
    assert len(engine.asked[1].prompt) == 3, "what was said to silence is no earlier text"
    silence = np.zeros(20 * RATE, np.float32)
    engine.begin(lambda asked: GOOD)
    whole = asyncio.run(Transcriber(engine).transcribe(silence, mode="sequential"))
    assert (whole.text, engine.asked) == ("", [])


@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_clips_alone_are_heard_at_their_own_times(engine: ScriptedEngine, mode: str) -> None:
    engine.begin(lambda asked: engine.said(0.0, GOOD, 1.0))
    for clips in ("2,5,10.5,12", [2, 5, 10.5, 12.0], [{"start": 2, "end": 5},
                  {"start": 10.5, "end": 12}]):  # fmt: skip
        result = engine.transcribe(20, mode=mode, clip_timestamps=clips)
        assert [(s.start, s.end, s.seek) for s in result.segments] == [
            (2.0, 3.0, 200), (10.5, 11.5, 1050),
        ]  # fmt: skip
        assert result.duration_after_vad == 4.5
    lengths = [len(asked.media.payload) for asked in engine.asked[-2:]]
    assert lengths == [3 * RATE, 1.5 * RATE]


# ---------------------------------------------------------------------- prompts and languages


def test_each_window_of_a_batch_gets_prompt_and_hotwords(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: GOOD)
    engine.transcribe(15, initial_prompt="the office", hotwords=[5, 6], prefix="wake")
    first, *others = (asked.prompt for asked in engine.asked)
    prompt, prefix = engine.ids("the office"), engine.ids("wake")
    start = others[0][-3:]
    assert first[1:] == [*prompt, *start, *prefix]
    assert all(other[1:] == [5, 6, *prompt, *start] for other in others)


def test_a_prefix_that_is_kept_is_part_of_the_text(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: GOOD)
    segments = engine.transcribe(15, prefix="wake", keep_prefix=True).segments
    assert segments[0].text == f"wake {GOOD}"
    assert segments[0].start == 0.0
    assert segments[0].avg_logprob == -0.2  # as its request says, which knows of the prefix
    assert all(segment.text == GOOD for segment in segments[1:])
    prefix = engine.ids("wake")
    assert segments[0].token_ids[: len(prefix)] == prefix
    first, *others = engine.asked
    assert engine.inputs.whisper is not None
    assert first.prompt[-1 - len(prefix) :] == [engine.inputs.whisper.first_timestamp_id, *prefix]
    assert first.begun == 1 + len(prefix)
    assert not any(other.begun for other in others)


def test_barred_tokens_reach_the_rules(engine: ScriptedEngine) -> None:
    whisper = engine.inputs.whisper
    assert whisper is not None
    engine.transcribe(3, suppress_tokens="7,9", suppress_blank=False, max_initial_timestamp=1.0)
    changes = engine.asked[-1].rule_changes
    assert set(changes.suppress) == {7, 9, *whisper.never_text}
    assert (changes.begin_suppress, changes.max_initial) == ((), 50)
    engine.transcribe(3, suppress_tokens=-1)
    assert set(engine.asked[-1].rule_changes.suppress) == {
        *whisper.non_speech_ids, *whisper.never_text,
    }  # fmt: skip
    engine.transcribe(3, suppress_tokens="")
    assert set(engine.asked[-1].rule_changes.suppress) == whisper.never_text
    engine.transcribe(3)
    changes = engine.asked[-1].rule_changes
    assert (changes.suppress, changes.begin_suppress, changes.max_initial) == (None, None, None)


def test_a_language_of_each_window(engine: ScriptedEngine) -> None:
    def script(asked: Any) -> Any:
        if not asked.params.logprob_token_ids:
            return GOOD
        return 0.8 if asked.media.key == engine.asked[0].media.key else 0.3

    engine.begin(script)
    result = engine.transcribe(15, language=None, multilingual=True)
    assert [segment.language for segment in result.segments] == ["de", "en", "en"]
    assert result.language == "de"
    assert result.language_probabilities == pytest.approx({"de": 0.8, "en": 0.2})


TWO = {"language_detection_threshold": 0.7, "language_detection_segments": 2}


@pytest.mark.parametrize(
    ("german", "options", "language"),
    [
        ([0.55, 0.9], {}, "de"),
        ([0.55, 0.1], TWO, "en"),
        ([0.55, 0.6], TWO, "de"),
    ],
)
@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_languages_are_detected_until_one_is_certain(
    engine: ScriptedEngine, german: list[float], options: dict[str, Any], language: str, mode: str
) -> None:
    engine.begin(lambda asked: german[asked.number] if asked.params.logprob_token_ids else GOOD)
    result = engine.transcribe(16, language=None, mode=mode, **options)
    assert result.language == language


# ---------------------------------------------------------------------- streams


def test_segments_come_in_order_and_the_whole_last(engine: ScriptedEngine) -> None:
    engine.begin(lambda asked: engine.said(0.0, f"{GOOD} {asked.number}", 1.0))

    async def pieces(stream: Any) -> list[Any]:
        return [piece async for piece in stream]

    *windows, whole = asyncio.run(pieces(Transcriber(engine).segments(noise(20), language="en")))
    segments = [segment for window in windows for segment in window]
    assert all(isinstance(segment, Segment) for segment in segments)
    assert whole.segments == segments
    options = {"language": "en", "temperature": (0.0, 0.2)}
    *texts, whole = asyncio.run(pieces(StreamingTranscriber(engine).stream(noise(20), **options)))
    assert "".join(texts) == whole.text
    assert len(texts) == len(windows)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, "temperature must be a number or a list of them"),
        ({"temperature": [0.0, -1]}, "temperature must be a number of at least 0, not -1"),
        ({"temperature": []}, "empty list"),
        ({"best_of": 0}, "best_of must be a whole number of at least 1"),
        ({"logprob_threshold": "x"}, "logprob_threshold must be a number"),
        ({"mode": "fast"}, "mode must be 'batched' or 'sequential', not 'fast'"),
        ({"condition_on_previous_text": True}, "needs mode='sequential'"),
        ({"initial_prompt": "<|en|> hi"}, "initial_prompt holds special tokens"),
        ({"initial_prompt": [10**9]}, "initial_prompt has token id 1000000000; the vocabulary"),
        ({"hotwords": 7}, "hotwords must be a text or a list of token ids"),
        ({"suppress_tokens": "a,b"}, "suppress_tokens must be token ids"),
        ({"suppress_tokens": [-2]}, "suppress_tokens has token id -2"),
        ({"max_initial_timestamp": -1}, "max_initial_timestamp must be a number of at least 0"),
        ({"clip_timestamps": "1,a"}, "clip_timestamps must be seconds"),
        ({"clip_timestamps": [5, 2]}, "a clip from 5 s to 2 s"),
        ({"clip_timestamps": [0, 5, 4, 8]}, "a clip from 4 s, before the one ahead of it ends"),
        ({"vad_parameters": {}}, "vad_parameters need vad_filter=True"),
        ({"vad_filter": True, "vad_parameters": {"treshold": 1}}, "Did you mean 'threshold'"),
        ({"vad_filter": True, "vad_parameters": {"threshold": 2}}, "at most 1, not 2"),
        ({"language_detection_segments": 0}, "language_detection_segments must be a whole number"),
        ({"multilingual": 1}, "multilingual must be True or False"),
    ],
)
def test_wrong_options_are_refused(
    engine: ScriptedEngine, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        engine.inputs.check_transcription(**options)


def test_a_name_and_its_alias_are_one_option(engine: ScriptedEngine) -> None:
    options = engine.inputs.check_transcription(log_prob_threshold=-0.5)
    assert options.fallback.logprob_threshold == -0.5
    assert engine.inputs.check_transcription(logprob_threshold=None).fallback == Fallback(
        logprob_threshold=None
    )
    with pytest.raises(ConfigurationError, match="are the same"):
        engine.inputs.check_transcription(log_prob_threshold=-0.5, logprob_threshold=-0.6)
    with pytest.raises(SamplingError, match="are the same: give one of them"):
        engine.inputs.check_transcription(params=SamplingParams(), sampling_params=SamplingParams())
