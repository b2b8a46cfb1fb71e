"""Live transcription over a model that is played: which words are confirmed, and what is heard."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from antiphon.config.errors import AudioError, ConfigurationError, PromptError, RequestExpired
from antiphon.engine.live.agreement import Agreement, spelling
from antiphon.engine.live.chunks import checked_chunks, stream_of
from antiphon.engine.live.options import LiveOptions
from antiphon.engine.live.sound import LiveSound
from antiphon.engine.live.transcriber import LiveTranscriber, LiveUpdate
from antiphon.engine.outputs import Segment, Transcription, Word

RATE = 1000  # Hz: small arrays
WINDOW = 30 * RATE


def words(text: str, start: float = 0.0, each: float = 0.5) -> list[Word]:
    return [
        Word(start + number * each, start + (number + 1) * each, f" {word}", 1.0)
        for number, word in enumerate(text.split())
    ]


def texts(found: Sequence[Word]) -> str:
    return "".join(word.text for word in found).strip()


def test_words_are_confirmed_once_two_hypotheses_agree() -> None:
    agreement = Agreement()
    assert agreement.add(words("turn on")) == []
    assert texts(agreement.add(words("Turn on, the"))) == "Turn on,"
    assert texts(agreement.tentative) == "the"
    assert agreement.add(words("turn on a radio")) == []
    assert texts(agreement.add(words("turn on a radio in"))) == "a radio"
    assert texts(agreement.confirm_all()) == "in"
    assert texts(agreement.confirmed) == "Turn on, a radio in"


@pytest.mark.parametrize("shift", [-0.7, -0.3, 0.0, 0.3, 0.7])
def test_times_that_shift_neither_repeat_nor_lose_a_confirmed_word(shift: float) -> None:
    agreement = Agreement()
    agreement.add(words("one two three"))
    agreement.add(words("one two three"))
    agreement.add(words("one two three four", start=shift))
    agreement.add(words("one two three four five", start=shift))
    assert texts(agreement.confirmed) == "one two three four"
    assert texts(agreement.tentative) == "five"


def test_a_word_said_twice_is_kept_twice() -> None:
    agreement = Agreement()
    for text in ("no no", "no no", "no no no", "no no no"):
        agreement.add(words(text))
    assert texts(agreement.confirmed) == "no no no"


def test_spelling_leaves_out_case_and_punctuation_but_keeps_bare_signs() -> None:
    assert spelling(" Radio,") == spelling("radio")
    assert spelling(" ?") != spelling(" !")


class Speech:
    """Plays a model: hears the words whose sound is whole in what it is given."""

    def __init__(self, text: str, each: float = 0.5, fails: int = 0) -> None:
        self.spoken, self.fails = words(text, each=each), fails
        self.calls: list[dict[str, Any]] = []
        self.sound: LiveSound | None = None

    async def hear(self, samples: np.ndarray, **options: Any) -> Transcription:
        await asyncio.sleep(0)
        self.calls.append({"length": len(samples), **options})
        if self.fails:
            self.fails -= 1
            raise RequestExpired("busy")
        assert self.sound is not None
        start = self.sound.start / RATE
        end = start + len(samples) / RATE
        heard = tuple(
            Word(word.start - start, word.end - start, word.text, 1.0)
            for word in self.spoken
            if word.start >= start - 0.01 and word.end <= end
        )
        segment = Segment(0.0, end, texts(heard), words=heard)
        return Transcription(texts(heard), "en", [segment], end, 0.9)


async def chunked(seconds: float, each: float = 0.5) -> AsyncIterator[np.ndarray]:
    for _ in range(round(seconds / each)):
        yield np.zeros(round(each * RATE), np.float32)
        for _ in range(20):
            await asyncio.sleep(0)


def run(speech: Speech, seconds: float, **options: Any) -> list[LiveUpdate]:
    async def updates() -> list[LiveUpdate]:
        speech.sound = LiveSound(RATE, RATE)
        live = LiveTranscriber(speech.hear, speech.sound, WINDOW, LiveOptions.of(**options))
        return [update async for update in live.run(chunked(seconds))]

    return asyncio.run(updates())


def test_the_whole_text_comes_once_and_in_order() -> None:
    text = " ".join(f"word{number}." for number in range(140))
    speech = Speech(text)
    updates = run(speech, 70.0)
    assert "".join(update.text for update in updates).strip() == text
    assert [update.final for update in updates] == [False] * (len(updates) - 1) + [True]
    assert updates[-1].tentative == ()
    ends = [word.end for update in updates for word in update.confirmed]
    assert ends == sorted(ends)
    assert max(call["length"] for call in speech.calls) <= 17 * RATE  # sound is let go
    later = speech.calls[-1]
    assert later["initial_prompt"].endswith(".")  # what was said before, as far as it is known
    assert later["language"] == "en"
    assert speech.calls[0]["language"] is None


def test_a_long_sentence_is_cut_between_words_before_the_window_is_full() -> None:
    text = " ".join(f"word{number}" for number in range(140))
    speech = Speech(text)
    updates = run(speech, 70.0)
    assert "".join(update.text for update in updates).strip() == text
    assert max(call["length"] for call in speech.calls) <= WINDOW


def test_silence_is_let_go() -> None:
    speech = Speech("")
    updates = run(speech, 60.0)
    assert not any(update.confirmed or update.tentative for update in updates)
    assert max(call["length"] for call in speech.calls) <= 2 * RATE


def test_what_comes_too_late_is_given_up_and_heard_with_more_sound() -> None:
    speech = Speech("one two three four", fails=3)
    updates = run(speech, 4.0, max_delay=1.0)
    assert "".join(update.text for update in updates).strip() == "one two three four"
    assert [call["timeout"] for call in speech.calls[:5]] == [1.0, 2.0, 4.0, 8.0, 1.0]
    lengths = [call["length"] for call in speech.calls[:4]]
    assert lengths == sorted(lengths)


def test_no_sound_gives_one_final_update() -> None:
    speech = Speech("")
    (update,) = run(speech, 0.0)
    assert update == LiveUpdate((), (), 0.0, None, final=True)
    assert speech.calls == []


def test_an_error_of_the_source_reaches_who_reads_updates() -> None:
    async def source() -> AsyncIterator[np.ndarray]:
        yield np.zeros(RATE, np.float32)
        raise OSError("the microphone is gone")

    async def updates() -> None:
        speech = Speech("one")
        speech.sound = LiveSound(RATE, RATE)
        async for _ in LiveTranscriber(speech.hear, speech.sound, WINDOW).run(source()):
            pass

    with pytest.raises(OSError, match="microphone"):
        asyncio.run(updates())


@pytest.mark.parametrize(
    "chunk", [[1, 2, 3], np.array([5], np.int64), b"abc", "text", np.array([np.nan]), None]
)
def test_chunks_that_are_no_samples_are_refused(chunk: Any) -> None:
    with pytest.raises(AudioError):
        LiveSound(RATE, RATE).add(chunk)


def test_chunks_of_any_form_are_the_same_sound() -> None:
    expected = np.array([0.0, 0.5, -1.0], np.float32)
    whole = (expected * 32768).clip(-32768, 32767).astype(np.int16)
    for chunk in (expected, expected.astype(np.float64).tolist(), whole, whole.tobytes()):
        sound = LiveSound(8000, 8000)
        sound.add(chunk)
        sound.finish()
        assert np.array_equal(sound.piece(10), expected)


def test_sound_of_another_rate_is_resampled_without_waiting() -> None:
    sound = LiveSound(48000, 16000)
    for _ in range(10):
        sound.add(np.zeros(4800, np.float32))
    assert sound.end > 0.8 * 16000
    sound.finish()
    assert abs(sound.end - 16000) <= 32


def test_a_blocking_source_is_read_in_a_thread_and_not_far_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Any:
        for number in range(100):
            taken.append(number)
            yield number

    async def first(count: int) -> list[int]:
        stream, found = stream_of(numbers()), []
        async for number in stream:
            found.append(number)
            if len(found) == count:
                break
        await asyncio.sleep(0.05)
        await stream.aclose()
        return found

    assert asyncio.run(first(3)) == [0, 1, 2]
    assert len(taken) <= 9


@pytest.mark.parametrize("source", ["call.wav", b"", 5, None])
def test_whole_recordings_are_no_stream(source: Any) -> None:
    with pytest.raises(AudioError, match="live"):
        checked_chunks(source)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout": 3}, ConfigurationError, "timeout"),
        ({"word_timestamps": False}, ConfigurationError, "word_timestamps"),
        ({"interval": 0}, PromptError, "interval"),
        ({"interval": True}, PromptError, "interval"),
        ({"max_delay": float("nan")}, PromptError, "max_delay"),
        ({"initial_prompt": [1, 2]}, PromptError, "initial_prompt"),
    ],
)
def test_options_that_a_stream_cannot_have(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        LiveOptions.of(**options)


def test_who_closes_a_stream_can_be_cancelled_meanwhile() -> None:
    """Its source takes some time to end."""

    async def scenario() -> None:
        closing, went_on = asyncio.Event(), False

        async def slow_source() -> AsyncIterator[np.ndarray]:
            try:
                yield np.zeros(4 * RATE, np.float32)
                await asyncio.Event().wait()
            finally:
                closing.set()
                await asyncio.sleep(0.2)

        async def reader() -> None:
            nonlocal went_on
            updates = LiveTranscriber(speech.hear, speech.sound, WINDOW).run(slow_source())
            await anext(updates)
            await updates.aclose()
            went_on = True

        speech = Speech("one two")
        speech.sound = LiveSound(RATE, RATE)
        reading = asyncio.create_task(reader())
        await closing.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not went_on

    asyncio.run(scenario())
