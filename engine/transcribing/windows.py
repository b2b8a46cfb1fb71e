"""From a recording to the windows that are requests."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from antiphon.config.errors import ConfigurationError
from antiphon.engine.transcribing.passages import Passage, joined_up_to, split_at_quiet
from antiphon.inputs.audio.cuts import is_digital_silence
from antiphon.inputs.audio.forms import AudioInput
from antiphon.inputs.audio.sound import Skipped, merged
from antiphon.inputs.audio.voice_activity import RATE, Span, VoiceOptions, speech_spans
from antiphon.inputs.calls.heard import Clip
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.processor import InputProcessor


class TimeSpan(NamedTuple):
    """Sound from `start` to `end` of the recording, in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class Window:
    """A piece of a recording that is one request. In seconds from the recording's start.

    `spans`: where its sound stands in the recording; () if nothing is left out of it. `shared`:
    seconds at its end that the window behind it hears too. `shares`: whether one before it does.
    """

    start: float
    end: float
    media: EncoderInput
    spans: tuple[TimeSpan, ...] = ()
    shared: float = 0.0
    shares: bool = False

    @property
    def seconds(self) -> float:
        """Of its sound, without what the next window hears too."""
        spans = self.spans
        whole = sum(end - start for start, end in spans) if spans else self.end - self.start
        return whole - self.shared

    def at(self, seconds: float, is_end: bool = False) -> float:
        """The recording's time `seconds` behind the window's start. `is_end`: of something that
        ends there, which is before what was left out rather than behind it."""
        for start, end in self.spans:
            length = end - start
            if seconds < length or (is_end and seconds <= length):
                return start + seconds
            seconds -= length
        return self.end if self.spans else min(self.start + seconds, self.end)

    def position(self, time: float) -> float:
        """Seconds of its sound up to a time of the recording; below 0 for one before it."""
        seconds = 0.0
        for start, end in self.spans:
            if time <= end:
                return seconds + max(time - start, 0.0 if seconds else time - start)
            seconds += end - start
        return seconds if self.spans else time - self.start


@dataclass(frozen=True)
class Recording:
    """What is kept of a recording while it is transcribed. The windows hold its samples.

    `passages`: what windows are cut from one after another; empty where `windows` are there.
    """

    windows: list[Window]
    skipped: list[Skipped]
    duration: float  # seconds
    num_bytes: int = 0  # of its samples
    passages: list[Passage] = field(default_factory=list)
    heard: float = 0.0  # seconds of its windows or passages

    def with_silence(self, silent: Iterable[Skipped]) -> "Recording":
        """Without digital silence that was only found later."""
        new = _beside(silent, self.skipped)
        seconds = sum(span.end - span.start for span in new)
        return replace(
            self, skipped=merged([*self.skipped, *new]), heard=max(0.0, self.heard - seconds)
        )


class WindowReader:
    """Reads recordings for one model. Its methods take seconds: call them in a thread."""

    def __init__(self, inputs: InputProcessor) -> None:
        assert inputs.audio is not None
        self.inputs, self.audio = inputs, inputs.audio

    def read(self, audio: AudioInput, options: TranscriptionOptions) -> Recording:
        """Raises AudioError, or ConfigurationError where voice activity can't be detected."""
        sound = self.inputs.read_sound(audio)
        samples, rate = sound.samples, self.audio.sampling_rate
        clips, unheard = self._clips(samples, options.clips, options.voice)
        known = merged([*sound.skipped, *_beside(unheard, sound.skipped)])
        duration, size = len(samples) / rate, samples.nbytes
        if options.in_turn:
            passages = [Passage.of(samples, spans) for spans in clips]
            heard = sum(len(passage.samples) for passage in passages) / rate
            return Recording([], known, duration, size, passages, heard)
        windows, silent = list[Window](), []
        for passage in self._pieces(samples, clips, options.longest, options.voice is not None):
            if (window := self.window(passage)) is not None:
                if windows and (shared := windows[-1].end - window.start) > 0:
                    windows[-1] = replace(windows[-1], shared=shared)
                    window = replace(window, shares=True)
                windows.append(window)
                continue
            silent.append(self._silence(passage))
        heard = sum(window.seconds for window in windows)
        skipped = merged([*known, *_beside(silent, sound.skipped)])
        return Recording(windows, skipped, duration, size, [], heard)

    def first(self, audio: AudioInput) -> Window | None:
        """The first window with sound; None if there is none. Raises AudioError."""
        samples = self.inputs.read_sound(audio).samples
        pieces = self._pieces(samples, [[(0, len(samples))]], self.audio.window, False)
        return next((window for piece in pieces if (window := self.window(piece))), None)

    def first_of(self, recording: Recording, longest: int, count: int) -> list[Window]:
        """The first windows with sound, `count` at most."""
        pieces = (
            passage.part(first, first + longest)
            for passage in recording.passages
            for first in range(0, len(passage.samples), longest)
        )
        windows = (window for piece in pieces if (window := self.window(piece)) is not None)
        return recording.windows[:count] or list(islice(windows, count))

    def window(self, passage: Passage) -> Window | None:
        """A passage of one window at most as a request's; None for digital silence."""
        if is_digital_silence(passage.samples):
            return None
        rate = self.audio.sampling_rate
        spans = tuple(TimeSpan(first / rate, last / rate) for first, last in passage.spans)
        media = self.inputs.clip(passage.samples)
        return Window(spans[0].start, spans[-1].end, media, spans if len(spans) > 1 else ())

    def _silence(self, passage: Passage) -> Skipped:
        rate = self.audio.sampling_rate
        spans = passage.spans or ((0, 0),)
        return Skipped(spans[0][0] / rate, spans[-1][1] / rate, "digital silence")

    def _clips(
        self, samples: np.ndarray, clips: tuple[Clip, ...], voice: VoiceOptions | None
    ) -> tuple[list[list[Span]], list[Skipped]]:
        """Of each clip, the spans that are heard; and what lies between them."""
        rate = self.audio.sampling_rate
        heard: list[list[Span]] = []
        unheard: list[Skipped] = []
        for start, end in clips:
            first = min(round(start * rate), len(samples))
            last = len(samples) if end is None else min(round(end * rate), len(samples))
            spans = [(first, last)]
            if voice is not None:
                spoken = speech_spans(samples[first:last], voice, self._voice_model())
                spans = [(first + begin, first + stop) for begin, stop in spoken]
                edges = [first, *chain.from_iterable(spans), last]
                unheard += [
                    Skipped(begin / rate, stop / rate, "no speech")
                    for begin, stop in zip(edges[::2], edges[1::2], strict=True)
                    if begin < stop
                ]
            if spans:
                heard.append(spans)
        return heard, unheard

    def _voice_model(self) -> Callable[[np.ndarray], np.ndarray]:
        rate = self.audio.sampling_rate
        if rate != RATE:
            raise ConfigurationError(f"vad_filter needs a model of {RATE} Hz, not {rate}")
        from antiphon.inputs.audio.voice_model import load_voice_model  # imports torch

        return load_voice_model().probabilities

    def _pieces(
        self, samples: np.ndarray, clips: list[list[Span]], longest: int, joined: bool
    ) -> Iterator[Passage]:
        """For windows that are decoded together. `joined`: spans of a clip share windows."""
        rate = self.audio.sampling_rate
        for spans in clips:
            short = split_at_quiet(spans, samples, longest, rate)
            for group in joined_up_to(longest, short) if joined else ([span] for span in short):
                yield Passage.of(samples, group)


def _beside(spans: Iterable[Skipped], known: Sequence[Skipped]) -> list[Skipped]:
    """Those of `spans` that lie in none of the `known` ones."""
    return [
        span
        for span in spans
        if not any(one.start <= span.start and span.end <= one.end for one in known)
    ]
