"""Sound over HTTP, asked by OpenAI's own client."""

import base64
import re
import wave
from pathlib import Path

import numpy as np
import openai
import pytest
from paths import RECORDINGS

CALL, WECKER = RECORDINGS / "call.wav", RECORDINGS / "wecker.wav"


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several windows: two commands again and again, with quiet between them."""
    path = tmp_path_factory.mktemp("sound") / "long.wav"
    pieces = []
    for name in (CALL, WECKER) * 4:
        with wave.open(str(name)) as file:
            rate = file.getframerate()
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        pieces += [samples, np.zeros(rate, np.int16)]
    write(path, np.concatenate(pieces), rate)
    return path


def write(path: Path, samples: np.ndarray, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def test_transcription(client: openai.OpenAI) -> None:
    reply = client.audio.transcriptions.create(model="hears", file=CALL)
    assert reply.text == "call seven nine zero"
    assert reply.usage is not None
    assert reply.usage.type == "duration"
    assert reply.usage.seconds > 1


def test_formats(client: openai.OpenAI) -> None:
    def transcribe(form: str) -> object:
        return client.audio.transcriptions.create(model="hears", file=CALL, response_format=form)

    assert transcribe("text") == "call seven nine zero\n"
    srt, vtt = transcribe("srt"), transcribe("vtt")
    assert re.match(r"1\n00:00:00,[3-6]\d0 --> 00:00:0", srt)
    assert re.match(r"WEBVTT\n\n00:00\.[3-6]\d0 --> 00:0", vtt)
    assert "call seven nine zero" in srt
    assert "call seven nine zero" in vtt


def test_verbose(client: openai.OpenAI) -> None:
    reply = client.audio.transcriptions.create(
        model="hears",
        file=WECKER,
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        temperature=0,
    )
    assert (reply.language, reply.text) == ("german", "wecke mich morgen um vier")
    assert reply.segments is not None
    (segment,) = reply.segments
    assert (segment.id, segment.seek, segment.text) == (0, 0, "wecke mich morgen um vier")
    assert 0 <= segment.start < segment.end <= reply.duration
    assert -1 < segment.avg_logprob <= 0
    assert 0 <= segment.no_speech_prob < 0.5
    assert 0 < segment.compression_ratio < 2.4
    assert segment.temperature == 0
    assert len(segment.tokens) > 3


def test_words(client: openai.OpenAI) -> None:
    reply = client.audio.transcriptions.create(
        model="hears",
        file=WECKER,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert reply.words is not None
    assert " ".join(word.word for word in reply.words) == reply.text
    ends = [(word.start, word.end) for word in reply.words]
    assert all(0 <= start <= end <= reply.duration for start, end in ends)
    assert ends == sorted(ends)


def test_a_prompt_and_voice_activity(client: openai.OpenAI) -> None:
    fields = {"model": "hears", "file": CALL, "language": "en"}
    plain, prompted = (
        client.audio.transcriptions.create(**fields, **prompt, temperature=0, include=["logprobs"])
        for prompt in ({}, {"prompt": "call seven"})
    )
    assert plain.text == prompted.text == "call seven nine zero"
    assert plain.logprobs != prompted.logprobs, "the model has read it"
    spoken = client.audio.transcriptions.create(**fields, extra_body={"vad_filter": "true"})
    assert spoken.text == "call seven nine zero"


def test_log_probabilities(client: openai.OpenAI) -> None:
    reply = client.audio.transcriptions.create(model="hears", file=CALL, include=["logprobs"])
    assert reply.logprobs is not None
    assert "".join(entry.token or "" for entry in reply.logprobs).strip() == reply.text
    assert all(entry.logprob <= 0 for entry in reply.logprobs)


def test_translation(client: openai.OpenAI) -> None:
    with pytest.deprecated_call():  # by OpenAI, in its own client
        reply = client.audio.translations.create(model="hears", file=WECKER)
    assert reply.text == "wake me up tomorrow at four"
    with pytest.deprecated_call():
        verbose = client.audio.translations.create(
            model="hears", file=WECKER, response_format="verbose_json"
        )
    assert verbose.text == "wake me up tomorrow at four"


def test_a_stream_is_the_whole_text_in_pieces(client: openai.OpenAI, long_recording: Path) -> None:
    whole = client.audio.transcriptions.create(model="hears", file=long_recording)
    stream = client.audio.transcriptions.create(model="hears", file=long_recording, stream=True)
    *deltas, done = list(stream)
    assert {delta.type for delta in deltas} == {"transcript.text.delta"}
    assert len(deltas) >= 2  # one for each window at least
    assert done.type == "transcript.text.done"
    assert done.text == whole.text == "".join(delta.delta for delta in deltas)
    assert done.usage is not None
    assert done.usage.output_tokens >= len(deltas)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "xml"}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"timestamp_granularities": ["segment"]}, "timestamp_granularities"),
        ({"language": "klingon"}, "language"),
        ({"temperature": 1.5}, "temperature"),
        ({"chunking_strategy": {"type": "semantic_vad"}}, "chunking_strategy"),
        ({"extra_body": {"chunking_strategy": "{" * 5000}}, "chunking_strategy"),
        (
            {"chunking_strategy": {"type": "server_vad", "threshold": 2}},
            "chunking_strategy.threshold",
        ),
        ({"extra_body": {"known_speaker_names": ["Ada", "Bob"]}}, "known_speaker_names"),
        ({"extra_body": {"keywords": ["Ada", "Bob"]}}, "keywords"),
        ({"extra_body": {"languages": ["en", "de"]}}, "languages"),
        ({"extra_body": {"priority": 10**30}}, "priority"),
        ({"response_format": "text", "stream": True}, "stream"),
        ({"response_format": "text", "include": ["logprobs"]}, "include"),
        ({"extra_body": {"diarize": "true"}}, "diarize"),
        ({"prompt": "<|en|> hello"}, "prompt"),
        ({"extra_body": {"hotwords": "<|en|>"}}, "hotwords"),
        ({"extra_body": {"vad_filter": "perhaps"}}, "vad_filter"),
        ({"model": "other"}, "model"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(
    client: openai.OpenAI, fields: dict, param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.audio.transcriptions.create(**{"model": "hears", "file": CALL, **fields})
    assert caught.value.status_code in (400, 404)
    assert caught.value.param == param


def test_what_is_no_recording(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="not readable as audio"):
        client.audio.transcriptions.create(model="hears", file=("x.wav", b"no sound at all"))
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.audio.transcriptions.create(model="hears", file=("x.wav", b""))


@pytest.mark.parametrize(("seconds", "fits"), [(59.9, True), (60.1, False)])
def test_the_limit_of_duration(
    client: openai.OpenAI, tmp_path: Path, seconds: float, fits: bool
) -> None:
    path = tmp_path / "silence.wav"
    write(path, np.zeros(round(8000 * seconds), np.int16), 8000)
    if fits:
        assert client.audio.transcriptions.create(model="hears", file=path).text == ""
        return
    with pytest.raises(openai.BadRequestError, match="over 60 s") as caught:
        client.audio.transcriptions.create(model="hears", file=path)
    assert (caught.value.code, caught.value.param) == ("audio_too_long", "file")


def spoken(path: Path, *parts: dict) -> list:
    data = base64.b64encode(path.read_bytes()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return [{"role": "user", "content": [sound, *parts]}]


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="hears", messages=spoken(CALL))
    assert reply.choices[0].message.content == "call seven nine zero"
    assert reply.usage is not None
    stream = client.chat.completions.create(
        model="hears",
        messages=spoken(CALL),
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == (
        "call seven nine zero"
    )
    assert last.usage == reply.usage


def test_chats_that_cannot_be_had(client: openai.OpenAI) -> None:
    text = {"type": "text", "text": "What is said?"}
    with pytest.raises(openai.BadRequestError, match="follows no instructions") as caught:
        client.chat.completions.create(model="hears", messages=spoken(CALL, text))
    assert caught.value.param == "messages.0.content.1"
    with pytest.raises(openai.BadRequestError, match="one part of type input_audio, not 0"):
        client.chat.completions.create(
            model="hears", messages=[{"role": "user", "content": "What is said?"}]
        )
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="hears", messages=spoken(CALL), temperature=1, n=2)
    assert caught.value.param == "n"
