"""Live transcription with published weights: recorded speech that comes in pieces."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from difflib import SequenceMatcher

import numpy as np
import pytest
import real_weights

from antiphon import AsyncEngine, Engine
from antiphon.config.errors import ConfigurationError
from antiphon.engine.live.transcriber import LiveUpdate
from antiphon.inputs.audio.forms import read_sound

RATE = 16_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(str(real_weights.model("tiny.en")), ray=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """A sentence of a book, 3 s."""
    path = next(path for path in real_weights.recordings() if "0880" in path.name)
    return read_sound(path, RATE).samples


def pieces(samples: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), RATE // 2):
        yield samples[start : start + RATE // 2]


def test_text_comes_before_the_sound_ends_each_word_once(
    engine: Engine, samples: np.ndarray
) -> None:
    heard, updates = threading.Semaphore(), list[LiveUpdate]()

    def spoken() -> Iterator[np.ndarray]:
        for piece in pieces(samples):
            heard.acquire()  # as if the engine were as fast as who speaks
            yield piece

    for update in engine.live(spoken()):
        updates.append(update)
        heard.release()
    text = spelled("".join(update.text for update in updates))
    whole = spelled(engine.transcribe(samples).text)
    assert SequenceMatcher(None, text, whole).ratio() > 0.8  # a word was heard with less behind it
    assert len(text) == len(whole)
    first = next(update for update in updates if update.confirmed)
    assert first.seconds < 0.7 * len(samples) / RATE
    assert [update.final for update in updates] == [False] * (len(updates) - 1) + [True]
    words = [word for update in updates for word in update.confirmed]
    assert all(0 <= word.start <= word.end <= len(samples) / RATE for word in words)


def test_a_telephones_sound_in_bytes_is_heard_too(engine: Engine, samples: np.ndarray) -> None:
    telephone = (samples[::2] * 32767).astype("<i2")
    chunks = (telephone[start : start + 4000].tobytes() for start in range(0, len(telephone), 4000))
    updates = list(engine.live(chunks, 8000, interval=1.0))
    words = spelled("".join(update.text for update in updates))
    whole = spelled(engine.transcribe(samples).text)
    assert len(set(words) & set(whole)) >= 0.7 * len(set(whole))


def test_streams_run_beside_each_other_and_one_that_is_left_leaves_nothing(
    samples: np.ndarray,
) -> None:
    async def stream() -> AsyncIterator[np.ndarray]:
        for piece in pieces(samples):
            yield piece
            await asyncio.sleep(0)

    async def read(engine: AsyncEngine, count: int | None) -> list[LiveUpdate]:
        updates = []
        live = engine.live(stream(), interval=2.0)
        async for update in live:
            updates.append(update)
            if len(updates) == count:
                break
        await live.aclose()
        return updates

    async def run() -> list[list[LiveUpdate]]:
        async with AsyncEngine(str(real_weights.model("tiny.en")), ray=False) as engine:
            results = await asyncio.gather(*(read(engine, count) for count in (None, None, 1)))
            assert len(engine.requests) == 0
            return results

    first, second, left = asyncio.run(run())
    assert [update.text for update in first] == [update.text for update in second]
    assert len(left) == 1


def test_options_are_checked_before_any_sound(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="mode"):
        next(iter(engine.live(iter(()), mode="sequential")))


def spelled(text: str) -> list[str]:
    return "".join(sign for sign in text.casefold() if sign.isalnum() or sign == " ").split()
