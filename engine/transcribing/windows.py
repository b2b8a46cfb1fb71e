"""From a recording to the windows that are requests: cut at quiet places, without silent pieces."""

from collections.abc import Iterator
from dataclasses import dataclass

from antiphon.inputs.audio.cuts import cut_at_quiet, is_digital_silence
from antiphon.inputs.audio.forms import AudioInput
from antiphon.inputs.audio.sound import Skipped, Sound, merged
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.processor import InputProcessor


@dataclass(frozen=True)
class Window:
    """A piece of a recording that is one request. In seconds from the recording's start."""

    start: float
    end: float
    media: EncoderInput

    def at(self, seconds: float, is_end: bool = False) -> float:
        """The recording's time `seconds` behind the window's start. `is_end`: of something that
        ends there."""
        return min(self.start + seconds, self.end)


@dataclass(frozen=True)
class Recording:
    """What is kept of a recording while its windows run. The windows hold its samples."""

    windows: list[Window]
    skipped: list[Skipped]
    duration: float  # seconds
    num_bytes: int = 0  # of its samples


class WindowReader:
    """Reads recordings for one model. Its methods take seconds: call them in a thread."""

    def __init__(self, inputs: InputProcessor) -> None:
        assert inputs.audio is not None
        self.inputs, self.audio = inputs, inputs.audio

    def read(self, audio: AudioInput, longest: int) -> Recording:
        """All windows, of at most `longest` samples each. Raises AudioError."""
        sound = self.inputs.read_sound(audio)
        silent: list[Skipped] = []
        windows = list(self._windows(sound, longest, silent))
        duration = len(sound.samples) / self.audio.sampling_rate
        return Recording(windows, merged([*sound.skipped, *silent]), duration, sound.samples.nbytes)

    def first(self, audio: AudioInput) -> Window | None:
        """The first window with sound; None if there is none. Raises AudioError."""
        return next(self._windows(self.inputs.read_sound(audio), self.audio.window, []), None)

    def _windows(self, sound: Sound, longest: int, silent: list[Skipped]) -> Iterator[Window]:
        """The pieces that are worth a request; pieces of digital silence are added to `silent`."""
        rate = self.audio.sampling_rate
        for first, last in cut_at_quiet(sound.samples, longest, rate):
            samples, start, end = sound.samples[first:last], first / rate, last / rate
            if not is_digital_silence(samples):
                yield Window(start, end, self.inputs.clip(samples))
            elif not any(span.start <= start and end <= span.end for span in sound.skipped):
                silent.append(Skipped(start, end, "digital silence"))
