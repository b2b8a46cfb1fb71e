"""From the moments at which tokens were said to timed words, by openai/whisper's rules.

`find_words` makes the words of a window, `fit` those of one of its segments. Times are seconds from
the window's start.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from antiphon.inputs.whisper.word_split import Decode, split_into_words

SENTENCE_ENDS = ".。!！?？"
PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"
LONGEST_MEDIAN = 0.7  # seconds
PAUSE = 4  # median words; what follows a longer silence may begin too early
SLACK = 0.5  # seconds by which a word may lie outside the segment that its timestamps give


@dataclass(frozen=True)
class WordRules:
    """`prepended`, `appended`: punctuation marks that belong to the word behind and before them."""

    prepended: str = PREPENDED
    appended: str = APPENDED


@dataclass
class TimedWord:
    """`tokens`: how many. `probability`: the mean of theirs; None where that is not known."""

    text: str
    tokens: int
    start: float
    end: float
    probability: float | None

    def between(self, start: float, end: float) -> "TimedWord":
        """With other times. `replace` takes three times as long."""
        return TimedWord(self.text, self.tokens, start, end, self.probability)


@dataclass
class WindowWords:
    """All words of a window, in order. Those whose text was merged into a neighbor have none.

    `usual`: the median length of a word.
    """

    words: list[TimedWord]
    usual: float = field(init=False)

    def __post_init__(self) -> None:
        lengths = [word.end - word.start for word in self.words if word.end != word.start]
        self.usual = min(LONGEST_MEDIAN, median(lengths)) if lengths else 0.0

    @property
    def longest(self) -> float:
        """What a word next to a pause may take."""
        return 2 * self.usual

    def take(self, num_tokens: int) -> list[TimedWord]:
        """Removes the words that the next `num_tokens` tokens belong to; those with a text."""
        taken: list[TimedWord] = []
        while self.words and num_tokens > 0:
            word = self.words.pop(0)
            num_tokens -= word.tokens
            if word.text:
                taken.append(word)
        return taken


def find_words(
    token_ids: list[int],
    starts: Sequence[float],
    probabilities: Sequence[float | None],
    decode: Decode,
    language: str | None,
    rules: WordRules,
) -> WindowWords:
    """The words of a window's text tokens.

    `starts` [tokens + 1]: when each token begins, and when the last one ends. `probabilities`
    [tokens].
    """
    words: list[TimedWord] = []
    first = 0
    for text, count in split_into_words(token_ids, decode, language):
        last = first + count
        chances = [p for p in probabilities[first:last] if p is not None]
        mean = sum(chances) / len(chances) if chances else None
        words.append(TimedWord(text, count, starts[first], starts[last], mean))
        first = last
    window = WindowWords(words)
    _shorten_at_sentence_ends(window)
    _prepend(words, rules.prepended)
    _append(words, rules.appended)
    return window


def _shorten_at_sentence_ends(window: WindowWords) -> None:
    """The mark that ends a sentence, or the word behind it, otherwise takes the pause between
    sentences."""
    if not window.usual:
        return
    for before, word in zip(window.words, window.words[1:], strict=False):
        if word.end - word.start > window.longest:
            if word.text in SENTENCE_ENDS:
                word.end = word.start + window.longest
            elif before.text in SENTENCE_ENDS:
                word.start = word.end - window.longest


def _prepend(words: list[TimedWord], marks: str) -> None:
    """Joins marks that stand behind a blank to the word behind them."""
    if not words:
        return
    following = words[-1]
    for word in reversed(words[:-1]):
        if word.text.startswith(" ") and word.text.strip() in marks:
            following.text, following.tokens = (
                word.text + following.text,
                word.tokens + following.tokens,
            )
            word.text, word.tokens = "", 0
        else:
            following = word


def _append(words: list[TimedWord], marks: str) -> None:
    """Joins marks to the word before them."""
    if not words:
        return
    previous = words[0]
    for word in words[1:]:
        if not previous.text.endswith(" ") and word.text in marks:
            previous.text += word.text
            previous.tokens += word.tokens
            word.text, word.tokens = "", 0
        else:
            previous = word


def fit(
    words: list[TimedWord], start: float, end: float, silent_since: float, window: WindowWords
) -> tuple[list[TimedWord], float, float]:
    """The words of a segment, none too long behind a pause or outside of what its timestamps
    `start` and `end` say; and the segment's own start and end, which follow its words.

    Changes the `words` themselves. `silent_since`: when the last word before them ended.
    """
    if not words:
        return words, start, end
    usual, longest = window.usual, window.longest
    first, last = words[0], words[-1]
    second = words[1] if len(words) > 1 else None
    if first.end - silent_since > PAUSE * usual and (
        first.end - first.start > longest
        or (second is not None and second.end - first.start > 2 * longest)
    ):
        if second is not None and second.end - second.start > longest:
            first.end = second.start = max(second.end / 2, second.end - longest)
        first.start = max(0.0, first.end - longest)
    if start < first.end and start - SLACK > first.start:
        first.start = max(0.0, min(first.end - usual, start))
    else:
        start = first.start
    if end > last.start and end + SLACK < last.end:
        last.end = max(last.start + usual, end)
    else:
        end = last.end
    return words, start, end
