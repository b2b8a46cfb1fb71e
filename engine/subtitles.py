"""What is shown together in subtitles, and when: as openai/whisper's command cuts them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

from antiphon.config.errors import ConfigurationError

if TYPE_CHECKING:
    from antiphon.engine.outputs import Segment, Transcription, Word

UNLIMITED = 1000  # characters, or words
LONG_PAUSE = 3.0  # seconds between the beginnings of two words


class Cue(NamedTuple):
    """A text that is shown for some seconds. `text` may have several lines."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class SubtitleRules:
    """How words are spread over subtitles; by default each segment is one.

    `max_line_width`: characters of a line. `max_line_count`: lines of a subtitle; with a width,
    subtitles no longer end where segments do. `max_words_per_line`: words of a subtitle.
    `highlight_words`: a subtitle for each word, which is underlined in it.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None
    highlight_words: bool = False

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_line_count", "max_words_per_line"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}={value} must be at least 1")

    @property
    def needs_words(self) -> list[str]:
        """Names of those that are set, all of which need the words' times."""
        return [field.name for field in fields(self) if getattr(self, field.name)]


def cues(result: "Transcription", rules: SubtitleRules | None = None) -> Iterator[Cue]:
    """The subtitles of a transcription, in order. Without words, its segments."""
    rules = rules or SubtitleRules()
    if not any(segment.words for segment in result.segments):
        for segment in result.segments:
            yield Cue(segment.start, segment.end, segment.text)
        return
    for words in _subtitles(result.segments, rules):
        if rules.highlight_words:
            yield from _highlighted(words)
        else:
            text = "".join(word.text for word in words)
            yield Cue(words[0].start, words[-1].end, text)


def _subtitles(segments: Sequence["Segment"], rules: SubtitleRules) -> Iterator[list["Word"]]:
    """The words of each subtitle; line feeds are in their texts."""
    keeps_segments = rules.max_line_count is None or rules.max_line_width is None
    widest, most_lines = rules.max_line_width or UNLIMITED, rules.max_line_count
    subtitle: list[Word] = []
    width, lines = 0, 1  # of the last line; of the subtitle
    last: float | None = None  # when the word before began
    for word, begins in _with_beginnings(segments, rules.max_words_per_line or UNLIMITED):
        pauses = not keeps_segments and last is not None and word.start - last > LONG_PAUSE
        last, must_break = word.start, begins and keeps_segments and bool(subtitle)
        fits = 0 < width <= widest - len(word.text)
        if fits and not pauses and not must_break:
            width += len(word.text)
            subtitle.append(word)
            continue
        text = word.text.strip()
        is_full = most_lines is not None and (pauses or lines >= most_lines)
        if must_break or (subtitle and is_full):
            yield subtitle
            subtitle, lines = [], 1
        elif width:
            text, lines = f"\n{text}", lines + 1
        width = len(text.strip())
        subtitle.append(replace(word, text=text))
    if subtitle:
        yield subtitle


def _with_beginnings(
    segments: Sequence["Segment"], words_per_line: int
) -> Iterator[tuple["Word", bool]]:
    """All words, and whether a segment, or a part of so many words, begins with each."""
    for segment in segments:
        for number, word in enumerate(segment.words or ()):
            yield word, number % words_per_line == 0


def _highlighted(words: list["Word"]) -> Iterator[Cue]:
    """The subtitle once for each word, and without a mark in the pauses between."""
    plain, shown_until = "".join(word.text for word in words), words[0].start
    for i, word in enumerate(words):
        if round(1000 * shown_until) != round(1000 * word.start):
            yield Cue(shown_until, word.start, plain)
        parts = [other.text for other in words]
        bare = word.text.lstrip()
        parts[i] = f"{word.text[: len(word.text) - len(bare)]}<u>{bare}</u>"
        yield Cue(word.start, word.end, "".join(parts))
        shown_until = word.end
