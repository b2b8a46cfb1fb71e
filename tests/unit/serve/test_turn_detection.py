"""Turns of speech in a session's buffer: what is taken, what is kept, and where."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from antiphon.config.errors import ConfigurationError
from antiphon.inputs.audio.voice_activity import FRAME
from antiphon.serve.schemas.realtime import RATE, ServerVad
from antiphon.serve.sound_buffer import HEADER, SoundBuffer
from antiphon.serve.turn_detection import TurnDetection, new_voices

MILLISECOND = RATE // 1000
LONG = 3600.0


def sound(*parts: tuple[bool, int]) -> bytes:
    """Loud and silent parts of so many milliseconds."""
    levels = [np.full(ms * MILLISECOND, 20_000 * loud, "<i2") for loud, ms in parts]
    return np.concatenate(levels).tobytes()


def loudness() -> Callable[[np.ndarray], np.ndarray]:
    """A voice is whatever is loud."""
    kept = np.zeros(0, np.float32)

    def judge(samples: np.ndarray) -> np.ndarray:
        nonlocal kept
        kept = np.concatenate([kept, samples])
        frames = kept[: len(kept) // FRAME * FRAME].reshape(-1, FRAME)
        kept = kept[frames.size :]
        return (np.abs(frames).mean(1) > 0.3).astype(np.float32)

    return judge


class Session:
    """Takes turns out of its buffer."""

    def __init__(self, limit: int = 1 << 30, longest: float = LONG, **settings: Any) -> None:
        self.buffer = SoundBuffer(RATE, limit)
        self.events: list[tuple[str, int]] = []  # in milliseconds
        self.items: list[bytes] = []
        self.longest = longest
        self.settings = ServerVad(type="server_vad", **settings)

    def detect(self) -> TurnDetection:
        async def run(function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

        return TurnDetection(self.settings, self.buffer, self, loudness, run, self.longest)

    async def on_speech(self, start: int) -> None:
        assert start == self.buffer.start
        self.events.append(("started", start // MILLISECOND))

    async def on_pause(self, end: int) -> None:
        self.events.append(("stopped", end // MILLISECOND))
        self.take(end)

    def take(self, end: int | None = None) -> None:
        file, size = self.buffer.take(end)
        with file:
            file.seek(0)
            content = file.read()
        assert len(content) == size
        self.items.append(content[HEADER.size :])


def heard(session: Session, content: bytes, size: int) -> None:
    """In appends of `size` bytes."""

    async def scenario() -> None:
        detection = session.detect()
        for begin in range(0, len(content), size):
            await detection.append(content[begin : begin + size])

    asyncio.run(scenario())


@pytest.fixture
def begin() -> Iterator[Callable[..., Session]]:
    with ExitStack() as scope:

        def one(*arguments: Any, **settings: Any) -> Session:
            session = Session(*arguments, **settings)
            scope.callback(session.buffer.close)
            return session

        yield one


Begin = Callable[..., Session]
TALK = ((False, 2000), (True, 1000), (False, 1500), (True, 700), (False, 900))


@pytest.mark.parametrize("size", [333, 4801, 48_000, 1 << 20])
def test_turns_with_what_is_around_them(begin: Begin, size: int) -> None:
    session, content = begin(), sound(*TALK)
    heard(session, content, size)
    kinds, times = zip(*session.events, strict=True)
    assert kinds == ("started", "stopped") * 2
    # 300 ms before, 500 ms behind; a frame has 32 ms, and the resampler smears edges.
    for time, expected in zip(times, (1700, 3500, 4200, 5700), strict=True):
        assert abs(time - expected) <= 40
    for item, start, end in zip(session.items, times[::2], times[1::2], strict=True):
        assert item == content[start * MILLISECOND * 2 : end * MILLISECOND * 2]
    assert session.buffer.end == len(content) // 2
    assert session.buffer.size <= 600 * MILLISECOND * 2


def test_settings_count(begin: Begin) -> None:
    session = begin(prefix_padding_ms=0, silence_duration_ms=2000)
    heard(session, sound(*TALK, (False, 2000)), 4800)
    (_, start), (_, end) = session.events
    assert abs(start - 2000) <= 40
    assert abs(end - 7200) <= 40
    deaf = begin(threshold=1.0, silence_duration_ms=200)
    heard(deaf, sound((False, 1000)), 4800)
    assert deaf.events == []


def test_hours_of_silence_are_not_kept(begin: Begin) -> None:
    session = begin(limit=1 << 16)
    heard(session, bytes(60 * RATE * 2), 1 << 18)
    assert (session.events, session.buffer.end) == ([], 60 * RATE)
    assert session.buffer.size <= 500 * MILLISECOND * 2


@pytest.mark.parametrize(("limit", "longest"), [(2 * RATE * 2, LONG), (1 << 30, 2.0)])
def test_speech_without_a_pause_is_cut_where_the_buffer_ends(
    begin: Begin, limit: int, longest: float
) -> None:
    session, content = begin(limit, longest), sound((True, 9000), (False, 1000))
    heard(session, content, 24_001)
    taken = b"".join(session.items)
    assert len(session.items) >= 5
    assert content.startswith(taken)
    assert len(taken) > 9000 * MILLISECOND * 2
    assert max(map(len, session.items)) <= 2 * RATE * 2


def test_a_buffer_of_less_than_a_frame_takes_what_it_can(begin: Begin) -> None:
    session = begin(longest=0.001)
    heard(session, sound((True, 100)), 999)
    assert session.buffer.end == 100 * MILLISECOND


def test_what_came_before_is_listened_to(begin: Begin) -> None:
    session, content = begin(), sound(*TALK)
    session.buffer.append(content)
    asyncio.run(session.detect().listen())
    assert [kind for kind, _ in session.events] == ["started", "stopped"] * 2


def test_a_client_may_take_the_buffer_in_a_turn(begin: Begin) -> None:
    session = begin()

    async def scenario() -> None:
        detection = session.detect()
        await detection.append(sound((True, 1000)))
        session.take()
        detection.begin_anew()
        assert [kind for kind, _ in session.events] == ["started"]
        await detection.append(sound((False, 1000)))
        assert len(session.events) == 1
        detection.change(ServerVad(type="server_vad", silence_duration_ms=100))
        await detection.append(sound((True, 300), (False, 200)))

    asyncio.run(scenario())
    assert session.items[0] == sound((True, 1000))
    assert [kind for kind, _ in session.events] == ["started", "started", "stopped"]
    (_, start), (_, end) = session.events[1:]
    assert abs(start - 1700) <= 40
    assert abs(end - 2400) <= 40


def test_without_its_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon.inputs.audio import voice_model

    voice_model.load_voice_model.cache_clear()
    monkeypatch.setattr(voice_model.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="pip install silero-vad"):
        new_voices()


def test_sound_from_before_is_cut_as_what_comes(begin: Begin) -> None:
    """Detection that is switched on late: what the buffer has by then may be longer than a turn."""
    session, content = begin(1 << 30, 2.0), sound((True, 9000), (False, 1000))
    session.buffer.append(content)
    asyncio.run(session.detect().listen())
    taken = b"".join(session.items)
    assert max(map(len, session.items)) <= 2 * RATE * 2
    assert len(taken) >= 9000 * MILLISECOND * 2
    assert content.startswith(taken)
