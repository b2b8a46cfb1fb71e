"""Ten seconds: one request through every part, without Ray. `make test-tiny`."""

from paths import RECORDINGS, T5, WHISPER

from antiphon import Engine


def test_a_recording_becomes_text() -> None:
    with Engine(str(WHISPER), ray=False) as engine:
        assert (
            engine.transcribe(RECORDINGS / "light.flac").text == "turn on the radio in the office"
        )


def test_a_number_becomes_words() -> None:
    with Engine(str(T5), ray=False) as engine:
        assert (
            engine.generate(["in words: 4711"])[0].outputs[0].text
            == "four thousand seven hundred eleven"
        )
