"""What lines ask for, and the mistakes in them."""

import json
from typing import Any

import pytest

from antiphon.config.errors import ManifestError, SamplingError
from antiphon.config.sampling import SamplingParams
from antiphon.jobs.entries import Defaults, Entry, entry_of_line
from antiphon.jobs.manifest import Line

SPEECH = Defaults(True, {"language": "en", "timeout": 9.0}, {"max_tokens": 5})
TEXT = Defaults(False)


def entry(defaults: Defaults, **content: Any) -> Entry:
    return entry_of_line(Line(3, json.dumps(content).encode()), defaults)


def test_a_line_of_nemo() -> None:
    line = {"audio_filepath": "a.wav", "duration": 2.5, "text": "hello", "speaker": 7}
    assert entry(SPEECH, **line) == Entry(
        number=3,
        audio="a.wav",
        params=SamplingParams(max_tokens=5),
        options={"language": "en", "timeout": 9.0},
        fields={"text": "hello", "duration": 2.5, "speaker": 7},
    )


def test_settings_of_a_line_go_before_those_of_the_command() -> None:
    line = entry(
        SPEECH,
        audio="a",
        lang="de",
        temperature=0.5,
        sampling={"max_tokens": 7},
        id=12,
        offset=None,
    )
    assert line.options == {"language": "de", "timeout": 9.0}
    assert line.params == SamplingParams(max_tokens=7, temperature=0.5)
    assert (line.id, line.span, line.fields) == (12, None, {})
    assert entry(SPEECH, audio="a", task="translate").options["task"] == "translate"


def test_a_part_of_a_recording() -> None:
    assert entry(SPEECH, audio="a", offset=1, duration=2.5).span == (1.0, 2.5)
    assert entry(SPEECH, audio="a", offset=0).span == (0.0, None)
    assert entry(SPEECH, audio="a", duration=2.5).span is None


def test_lines_for_text_models() -> None:
    assert entry(TEXT, text="a").prompt == "a"
    both = entry(TEXT, text="reference", prompt="a", target_lang="fr", offset_in_book=3)
    assert (both.prompt, both.options) == ("a", {"target_language": "fr"})
    assert both.fields == {"text": "reference", "offset_in_book": 3}
    assert entry(TEXT, prompt="").prompt == ""
    assert entry(TEXT, text="a", path="b", duration=2).fields == {"path": "b", "duration": 2}


@pytest.mark.parametrize(
    ("defaults", "content", "message"),
    [
        (SPEECH, {}, "no 'audio'"),
        (SPEECH, {"audio": ""}, "no 'audio'"),
        (SPEECH, {"audio": ["a"]}, "'audio' must be a path or an address, not \\['a'\\]"),
        (SPEECH, {"audio": "a", "audio_filepath": "b"}, "'audio_filepath' says 'audio' once more"),
        (SPEECH, {"audio": "a", "target_language": "de"}, "'target_language' is for text models"),
        (SPEECH, {"audio": "a", "langauge": "de"}, "Did you mean 'language'"),
        (SPEECH, {"audio": "a", "temprature": 1}, "Did you mean 'temperature'"),
        (SPEECH, {"audio": "a", "offset": "1"}, "'offset' must be seconds, not '1'"),
        (SPEECH, {"audio": "a", "offset": -1}, "no part of a recording"),
        (SPEECH, {"audio": "a", "offset": 1, "duration": 0}, "no part of a recording"),
        (SPEECH, {"audio": "a", "id": [1]}, "'id' must be a text or a number"),
        (SPEECH, {"audio": "a", "prompt": 3}, "'prompt' must be a text, not 3"),
        (SPEECH, {"audio": "a", "sampling": 3}, "'sampling' must be an object, not 3"),
        (TEXT, {"id": 1}, "neither 'text' nor 'prompt'"),
        (TEXT, {"text": "a", "audio": "b"}, "'audio' is for speech models"),
        (TEXT, {"text": "a", "language": "b"}, "'language' is for speech models"),
    ],
)
def test_mistakes(defaults: Defaults, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        entry(defaults, **content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"audio", "not JSON"),
        (b'{"audio": "a"', "not JSON"),
        (b'{"audio": "\xff"}', "not JSON"),
        (b'["a"]', "a line must be a JSON object"),
        (b"7", "a line must be a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (None, "longer than 16 MiB"),
    ],
)
def test_lines_that_are_no_objects(content: bytes | None, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        entry_of_line(Line(1, content), SPEECH)


def test_sampling_parameters_are_checked() -> None:
    with pytest.raises(SamplingError, match="top_p"):
        entry(TEXT, text="a", top_p=2)
    with pytest.raises(SamplingError, match="max_tokenz"):
        entry(TEXT, text="a", sampling={"max_tokenz": 2})


def test_remarks_of_others_are_no_misspellings() -> None:
    remarks = {"texts": 1, "languages": 2, "speaker": 3, "durations": 4, "task_id": 5, "book": None}
    assert entry(TEXT, text="a", **remarks).fields == remarks
