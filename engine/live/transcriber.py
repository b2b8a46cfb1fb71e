"""Transcription of sound while it comes: the last seconds are heard again and again."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from antiphon.config.errors import RequestExpired
from antiphon.engine.live.agreement import Agreement
from antiphon.engine.live.options import LiveOptions
from antiphon.engine.live.sound import LiveSound
from antiphon.engine.outputs import Transcription, Word

LONG_SECONDS = 15.0  # of sound heard again, from which on it is cut behind a confirmed sentence
FULL_SHARE = 0.9  # of the window, from which on it is cut behind any confirmed word
SURE = 0.5  # probability from which on a detected language holds for the rest of the stream
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "…")

DEFAULTS = LiveOptions()
Hear = Callable[..., Awaitable[Transcription]]


@dataclass(frozen=True)
class LiveUpdate:
    """What one more hypothesis has brought. Times in seconds from the stream's start.

    confirmed: words that are new and stay. tentative: all words behind them, which the next update
    may change. seconds: of sound that was heard. final: nothing comes after this one.
    """

    confirmed: tuple[Word, ...]
    tentative: tuple[Word, ...]
    seconds: float
    language: str | None
    final: bool = field(default=False, kw_only=True)

    @property
    def text(self) -> str:
        """Of the confirmed words, with the blanks that they begin with."""
        return "".join(word.text for word in self.confirmed)

    @property
    def tentative_text(self) -> str:
        return "".join(word.text for word in self.tentative)


class LiveTranscriber:
    """One stream.

    hear: transcribes samples [n] with words; takes `language`, `initial_prompt` and `timeout`.
    window: samples that one hypothesis can hear.
    """

    def __init__(
        self, hear: Hear, sound: LiveSound, window: int, options: LiveOptions = DEFAULTS
    ) -> None:
        self._hear, self._sound, self._window = hear, sound, window
        self._options, self._language = options, options.language
        self._interval = int(options.interval * sound.rate)
        self._agreement = Agreement()
        self._heard = 0  # samples of the stream that a hypothesis has heard
        self._ended = False
        self._changed = asyncio.Condition()

    async def run(self, chunks: AsyncIterable[Any]) -> AsyncGenerator[LiveUpdate, None]:
        """Updates until `chunks` end and all is heard. Leaving the loop cancels what is under way.
        Raises what `chunks` and `hear` raise, but for hypotheses that were given up."""
        listening = asyncio.create_task(self._listen(chunks))
        max_delay = self._options.max_delay
        try:
            while True:
                await self._wait_for_sound()
                if listening.done():
                    listening.result()  # raises what it has raised
                piece = self._sound.piece(self._window)
                final = self._ended and self._sound.start + len(piece) == self._sound.end
                try:
                    yield await self._update(piece, None if final else max_delay, final)
                    max_delay = self._options.max_delay
                except RequestExpired:
                    max_delay *= 2  # a busy engine is asked for less
                if final:
                    return
        finally:
            listening.cancel()
            await asyncio.wait([listening])  # it raises no cancellation but the caller's
            if not listening.cancelled():
                listening.exception()  # retrieved: the loop has told of it, or of another error

    # ------------------------------------------------------------------ sound

    async def _listen(self, chunks: AsyncIterable[Any]) -> None:
        """Takes chunks, not far ahead of what can be heard."""
        try:
            async for chunk in chunks:
                self._sound.add(chunk)
                async with self._changed:
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: self._unheard < 2 * self._window)
            self._sound.finish()
        finally:
            self._ended = True
            async with self._changed:
                self._changed.notify_all()

    @property
    def _unheard(self) -> int:
        return self._sound.end - self._heard

    async def _wait_for_sound(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or self._unheard >= self._interval)

    # ------------------------------------------------------------------ one hypothesis

    async def _update(self, piece: np.ndarray, timeout: float | None, final: bool) -> LiveUpdate:
        """Hears `piece`, the oldest sound that is here."""
        end = self._sound.start + len(piece)
        heard = await self._words(piece, timeout)
        was_silent = not self._agreement.tentative
        confirmed = self._agreement.add(heard)
        if final:
            confirmed += self._agreement.confirm_all()
        elif not heard and was_silent:
            self._sound.let_go(end - min(len(piece), self._sound.rate))  # a word may just begin
        elif (cut := self._cut(len(piece))) is not None:
            self._sound.let_go(int(cut * self._sound.rate))
        elif len(piece) == self._window:  # it cannot be heard with more behind it
            confirmed += self._agreement.confirm_all()
            self._sound.let_go(end)
        async with self._changed:
            self._heard = end
            self._changed.notify_all()
        return LiveUpdate(
            tuple(confirmed),
            tuple(self._agreement.tentative),
            end / self._sound.rate,
            self._language,
            final=final,
        )

    async def _words(self, piece: np.ndarray, timeout: float | None) -> list[Word]:
        """What is heard in `piece`, the oldest sound, in times of the stream."""
        if not len(piece):
            return []
        start = self._sound.start / self._sound.rate
        heard = await self._hear(
            piece, language=self._language, initial_prompt=self._text_before(start), timeout=timeout
        )
        if self._language is None and (heard.language_probability or 0.0) > SURE:
            self._language = heard.language
        words = (word for segment in heard.segments for word in segment.words or ())
        return [replace(word, start=start + word.start, end=start + word.end) for word in words]

    def _text_before(self, seconds: float) -> str | None:
        """The end of the confirmed text whose sound is no longer heard."""
        words = [word.text for word in self._agreement.confirmed if word.end <= seconds]
        text = f"{self._options.initial_prompt}{''.join(words)}".strip()
        return text[max(0, len(text) - self._options.context) :] or None

    def _cut(self, length: int) -> float | None:
        """The second of the stream behind which the sound is heard again, where `length` samples
        were heard now: between two words of which the first is confirmed. None: no cut yet."""
        rate, start = self._sound.rate, self._sound.start / self._sound.rate
        if length < LONG_SECONDS * rate:
            return None
        any_word = length >= FULL_SHARE * self._window
        words = [word for word in self._agreement.confirmed if word.end > start]
        following = [*words[1:], *self._agreement.tentative[:1]]
        for word, after in zip(reversed(words), reversed(following), strict=False):
            if any_word or word.text.rstrip().endswith(SENTENCE_ENDS):
                return (word.end + max(word.end, after.start)) / 2
        return None
