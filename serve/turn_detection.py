"""Turns of speech in a realtime session's buffer, which the server finds and commits."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np

from antiphon.inputs.audio.voice_turns import Edge, Probabilities, VoiceTurns
from antiphon.serve.schemas.realtime import RATE, ServerVad
from antiphon.serve.sound_buffer import SAMPLE_BYTES, SoundBuffer

PIECE = 10 * RATE  # samples that are judged in one call, so that other sessions have their turn
FULL_SCALE = 1 << 15
RunInThread = Callable[..., Awaitable[Any]]


class Turns(Protocol):
    """Who is told of turns."""

    async def on_speech(self, start: int) -> None:
        """A turn begins with sample `start`, the first of the buffer."""

    async def on_pause(self, end: int) -> None:
        """It ends before sample `end`, up to which it is to be taken out of the buffer."""


def new_voices() -> Callable[[], Probabilities]:
    """What judges the frames of one more stream. Slow the first time. Raises ConfigurationError
    where the model is not installed."""
    from antiphon.inputs.audio.voice_model import VoiceStream, load_voice_model  # imports torch

    model = load_voice_model()
    return lambda: VoiceStream(model).feed


class TurnDetection:
    """Before a turn the buffer keeps no more than what may still become its beginning, and it is
    never full: a turn without a pause ends where the buffer does."""

    def __init__(
        self,
        settings: ServerVad,
        buffer: SoundBuffer,
        turns: Turns,
        voices: Callable[[], Probabilities],
        run_in_thread: RunInThread,
        longest: float,
    ) -> None:
        """What is in `buffer` counts as if it came now. `voices`: see `new_voices`. `longest`:
        seconds of a turn."""
        self.settings = settings
        self._buffer, self._turns = buffer, turns
        self._voices, self._run_in_thread = voices, run_in_thread
        self._room = max(1, min(buffer.limit // SAMPLE_BYTES, int(longest * RATE)))  # samples
        self.begin_anew()

    def change(self, settings: ServerVad) -> None:
        """A turn that has begun goes on."""
        self.settings, self._voice.options = settings, settings.voice

    def begin_anew(self) -> None:
        """The buffer was taken or cleared, whatever was said in it."""
        self._speaks = False
        self._heard = self._buffer.start
        self._voice = VoiceTurns(self.settings.voice, RATE, self._voices(), self._heard)

    async def append(self, sound: bytes) -> None:
        """Any amount of it."""
        size = min(PIECE, self._room) * SAMPLE_BYTES
        for begin in range(0, len(sound), size):
            piece = sound[begin : begin + size]
            await self._make_room(len(piece))
            self._buffer.append(piece)
            await self.listen()

    async def _make_room(self, size: int) -> None:
        if self._buffer.size + size > self._room * SAMPLE_BYTES:
            await self._cut(self._buffer.end)

    async def _cut(self, end: int) -> None:
        """Gives up what is before sample `end` for want of room; a turn ends there."""
        if self._speaks:
            await self._turns.on_pause(end)
        self._buffer.drop(end)
        self.begin_anew()

    async def listen(self) -> None:
        """To all that has come since."""
        while self._heard < self._buffer.end:
            length = min(PIECE, self._room, self._buffer.end - self._heard)
            if self._speaks and self._heard + length - self._buffer.start > self._room:
                await self._cut(self._heard)
            sound = self._buffer.read(self._heard, length)
            self._heard += length
            for edge in await self._run_in_thread(_edges, self._voice, sound):
                self._speaks = edge.speaks
                if edge.speaks:
                    self._buffer.drop(edge.sample - self.settings.prefix)
                    await self._turns.on_speech(self._buffer.start)
                else:
                    await self._turns.on_pause(edge.sample)
        if not self._speaks:
            self._buffer.drop(self._voice.judged - self.settings.prefix)


def _edges(voice: VoiceTurns, sound: bytes) -> list[Edge]:
    return voice.feed(np.frombuffer(sound, "<i2").astype(np.float32) / FULL_SCALE)
