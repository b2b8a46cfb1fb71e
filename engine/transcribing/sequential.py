"""A recording's windows one after another, each from where the text of the one before ended."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from antiphon.engine.outputs import Segment
from antiphon.engine.transcribing.attempts import Decoded
from antiphon.engine.transcribing.passages import Passage
from antiphon.engine.transcribing.reach import Heard, Reach, last_word_end, reach
from antiphon.engine.transcribing.segments import SEEK_RATE, Segments
from antiphon.engine.transcribing.windows import Window
from antiphon.inputs.audio.sound import Skipped
from antiphon.inputs.calls.earlier_text import EarlierText
from antiphon.inputs.whisper.format import TimedTokens, WhisperFormat
from antiphon.inputs.whisper.prompts import latest
from antiphon.inputs.whisper.seeking import cut_at_timestamps

# From earlier tokens, and whether the window is the first one.
Decode = Callable[[Window, list[int], bool], Awaitable[Decoded]]


class History:
    """The tokens of what was said before a window, timestamps included."""

    def __init__(self, earlier: EarlierText, positions: int) -> None:
        """`positions`: of the decoder."""
        self.earlier, self._room = earlier, positions // 2 - 1 - len(earlier.initial)
        self._tokens = list(earlier.initial)
        self._begin = 0  # of the tokens that still count

    def tokens(self) -> list[int]:
        if not self.earlier.carried:
            return self._tokens[self._begin :]
        own = self._tokens[max(self._begin, len(self.earlier.initial)) :]
        return [*self.earlier.initial, *latest(own, self._room)]

    def add(self, token_ids: list[int]) -> None:
        self._tokens += token_ids

    def end_window(self, temperature: float) -> None:
        """Forgets what the next windows shall not get."""
        if not self.earlier.continued or temperature > self.earlier.reset_temperature:
            self._begin = len(self._tokens)


class SequentialDecoder:
    """openai/whisper's way through a recording."""

    def __init__(
        self,
        format_: WhisperFormat,
        segments: Segments,
        window_of: Callable[[Passage], Awaitable[Window | None]],
        decode: Decode,
    ) -> None:
        """`window_of`: None for digital silence."""
        self.format, self.segments, self.options = format_, segments, segments.options
        self.history = History(self.options.earlier, format_.positions)
        self.window_of, self.decode = window_of, decode
        self.silent: list[Skipped] = []  # windows of digital silence
        self._is_first, self._last_word = True, 0.0  # the recording's time when it ended

    async def run(self, passage: Passage, rate: int, done: Callable[[float], object]) -> None:
        """`rate`: of its samples. `done`: is told the seconds that were gone on by."""
        seek, end, longest = 0, len(passage.samples), self.options.longest
        while seek < end:
            part = passage.part(seek, min(seek + longest, end))
            step = len(part.samples)
            window = await self.window_of(part)
            if window is None:
                spans = ((first / rate, last / rate) for first, last in part.spans)
                self.silent += [Skipped(*span, "digital silence") for span in spans]
            else:
                seconds = await self._window(window, (end - seek) / rate, longest / rate)
                frames = 0 if seconds is None else round(seconds * SEEK_RATE)
                if frames > 0:  # else there is less than a frame left, and nothing to seek
                    step = min(frames * (rate // SEEK_RATE), end - seek)
            seek += step
            done(step / rate)

    async def _window(self, window: Window, left: float, whole: float) -> float | None:
        """Where in it the next one begins; None: behind it. `left`: seconds of sound to come, its
        own among them. `whole`: seconds of a full window."""
        decoded = await self.decode(window, self.history.tokens(), self._is_first)
        self._is_first = False
        if self.segments.is_silence(decoded):
            self.segments.note_silence(window.start, window.end)
            return None
        cut = cut_at_timestamps(self.format, decoded.output.token_ids)
        # Segments without text or length are dropped, and not told to the next window either.
        pieces = [piece for piece in cut.slices if self._is_said(piece.timed)]
        made = self.segments.made(window, decoded, [piece.timed for piece in pieces])
        reached = Reach(len(made), cut.seconds)
        if self.options.words is not None:
            last = cut.slices[-1].timed.end
            heard = Heard(
                window.seconds, whole, window.start, left, window.position(self._last_word),
                window.seconds if last is None else last,
            )  # fmt: skip
            reached = reach(
                heard, [in_window(segment, window) for _, segment in made], cut.seconds,
                cut.ends_in_silence, self.options.silence_threshold,
            )  # fmt: skip
        if not made:
            gone = reached.seconds
            end = window.end if gone is None else window.at(gone, is_end=True)
            self.segments.note_silence(window.start, end)
        if reached.is_skipped:
            return reached.seconds
        last = last_word_end([segment for _, segment in made[: reached.kept]])
        self._last_word = self._last_word if last is None else last
        for piece, one in list(zip(pieces, made, strict=True))[: reached.kept]:
            if one.segment.start != one.segment.end:
                self.segments.keep([one])
                self.history.add(piece.token_ids)
        self.history.end_window(decoded.temperature)
        return reached.seconds

    def _is_said(self, timed: TimedTokens) -> bool:
        text = self.segments.inputs.decode(timed.token_ids)
        return timed.start != timed.end and bool(text.strip())


def in_window(segment: Segment, window: Window) -> Segment:
    """With times from the window's start."""
    words = tuple(
        replace(word, start=window.position(word.start), end=window.position(word.end))
        for word in segment.words or ()
    )
    start, end = window.position(segment.start), window.position(segment.end)
    return replace(segment, start=start, end=end, words=words)
