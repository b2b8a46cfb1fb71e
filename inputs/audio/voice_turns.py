"""Where turns of speech begin and end, while sound comes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from antiphon.inputs.audio.resampler import Resampler
from antiphon.inputs.audio.voice_activity import FRAME, RATE, VoiceOptions

PIECE_SECONDS = 0.09  # that are judged together, if not more comes at once
Probabilities = Callable[[np.ndarray], np.ndarray]  # of the frames that [n] samples complete


@dataclass(frozen=True)
class Edge:
    """speaks: whether a turn begins at `sample` of the stream, or ends there."""

    speaks: bool
    sample: int


class VoiceTurns:
    """One stream. A turn begins with a frame whose probability of speech reaches the threshold, and
    ends behind a pause of `min_silence_duration_ms`, which is part of it."""

    def __init__(
        self,
        options: VoiceOptions,
        rate: int,
        probabilities: Probabilities,
        start: int = 0,
    ) -> None:
        """`rate`: Hz of the stream. `probabilities`: takes samples at the model's rate. `start`:
        samples of the stream that are not listened to."""
        self.options, self._rate, self._start = options, rate, start
        self._probabilities = probabilities
        self._resampler = Resampler(RATE, int(PIECE_SECONDS * rate))
        self._frames = 0  # that are judged
        self._speaks = False
        self._quiet: int | None = None  # the frame where this turn may have ended

    @property
    def judged(self) -> int:
        """Samples of the stream that are judged."""
        return self._start + self._frames * FRAME * self._rate // RATE

    def feed(self, samples: np.ndarray) -> list[Edge]:
        """What `samples` [n], float32, have brought."""
        pieces = self._resampler.feed(samples, self._rate)
        edges = (self._next(p) for piece in pieces for p in self._probabilities(piece).tolist())
        return [edge for edge in edges if edge is not None]

    def _next(self, probability: float) -> Edge | None:
        """The next frame's."""
        begin = self.judged
        frame, self._frames = self._frames, self._frames + 1
        if probability >= self.options.threshold:
            self._quiet = None
            if not self._speaks:
                self._speaks = True
                return Edge(True, begin)
        elif self._speaks and probability < self.options.end_threshold:
            self._quiet = frame if self._quiet is None else self._quiet
            pause = (self._frames - self._quiet) * FRAME
            if pause >= self.options.min_silence_duration_ms * RATE / 1000:
                self._speaks, self._quiet = False, None
                return Edge(False, self.judged)
        return None
