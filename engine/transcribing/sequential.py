"""A recording's windows one after another, each from where the text of the one before ended."""

from collections.abc import Awaitable, Callable

from antiphon.engine.transcribing.attempts import Decoded
from antiphon.engine.transcribing.passages import Passage
from antiphon.engine.transcribing.windows import Window
from antiphon.inputs.calls.earlier_text import EarlierText
from antiphon.inputs.whisper.format import TimedTokens, WhisperFormat
from antiphon.inputs.whisper.prompts import latest
from antiphon.inputs.whisper.seeking import cut_at_timestamps
from antiphon.inputs.whisper.tokens import SECONDS_PER_TICK

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
        history: History,
        window_of: Callable[[Passage], Awaitable[Window | None]],
        decode: Decode,
        is_silence: Callable[[Decoded], bool],
        take: Callable[[Window, Decoded, list[TimedTokens]], object],
        text_of: Callable[[list[int]], str],
    ) -> None:
        """`window_of`: None for digital silence. `take`: gets each window's segments. `text_of`:
        tokens."""
        self.format, self.history = format_, history
        self.window_of, self.decode, self.is_silence = window_of, decode, is_silence
        self.take, self.text_of = take, text_of
        self._is_first = True

    async def run(
        self, passage: Passage, longest: int, rate: int, done: Callable[[float], object]
    ) -> None:
        """`longest`: samples of a window. `done`: is told the seconds that were gone on by."""
        tick = round(SECONDS_PER_TICK * rate)
        seek, end = 0, len(passage.samples)
        while seek < end:
            part = passage.part(seek, min(seek + longest, end))
            step = len(part.samples)
            window = await self.window_of(part)
            if window is not None:
                seconds = await self._window(window)
                if seconds is not None and seconds > 0:
                    step = min(round(seconds / SECONDS_PER_TICK) * tick, end - seek)
            seek += step
            done(step / rate)

    async def _window(self, window: Window) -> float | None:
        """Where in it the next one begins; None: behind it."""
        decoded = await self.decode(window, self.history.tokens(), self._is_first)
        self._is_first = False
        if self.is_silence(decoded):
            return None
        cut = cut_at_timestamps(self.format, decoded.output.token_ids)
        # Segments without text or length are dropped, and not told to the next window either.
        kept = [piece for piece in cut.slices if self._is_said(piece.timed)]
        self.take(window, decoded, [piece.timed for piece in kept])
        for piece in kept:
            self.history.add(piece.token_ids)
        self.history.end_window(decoded.temperature)
        return cut.seconds

    def _is_said(self, timed: TimedTokens) -> bool:
        return timed.start != timed.end and bool(self.text_of(timed.token_ids).strip())
