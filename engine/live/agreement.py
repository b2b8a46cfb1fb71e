"""Which words of a text that is heard again and again will not change any more.

LocalAgreement-2 (Liu et al., 2020; for Whisper: Macháček, Dabre and Bojar, 2023): a word is
confirmed once two hypotheses in a row have it, and all words before it.
"""

import unicodedata
from collections.abc import Sequence

from antiphon.engine.outputs import Word

LOOK_BACK = 5  # confirmed words that are sought in a new hypothesis, to find where they end
NEAR = 3  # words by which the end may lie apart from where the times say


class Agreement:
    """The words of one stream; times in seconds from its start."""

    def __init__(self) -> None:
        self.confirmed: list[Word] = []
        self.tentative: list[Word] = []  # what the last hypothesis has behind the confirmed words

    def add(self, hypothesis: Sequence[Word]) -> list[Word]:
        """Takes the words that were heard now, of which the first ones may be confirmed already.
        Returns those that are newly confirmed."""
        new = list(hypothesis[self._num_confirmed(hypothesis) :])
        count = 0
        for old, word in zip(self.tentative, new, strict=False):
            if spelling(old.text) != spelling(word.text):
                break
            count += 1
        self.confirmed += new[:count]
        self.tentative = new[count:]
        return new[:count]

    def confirm_all(self) -> list[Word]:
        """Confirms what is tentative, because nothing more will be heard of it."""
        words, self.tentative = self.tentative, []
        self.confirmed += words
        return words

    def _num_confirmed(self, hypothesis: Sequence[Word]) -> int:
        """How many words of `hypothesis` stand for confirmed ones. Times shift by some tenths of a
        second from one hypothesis to the next, so that spelling decides between near places."""
        if not self.confirmed:
            return 0
        end = self.confirmed[-1].end
        by_time = sum((word.start + word.end) / 2 <= end for word in hypothesis)
        places = range(max(0, by_time - NEAR), min(len(hypothesis), by_time + NEAR) + 1)
        return max(
            places, key=lambda place: (self._common(hypothesis[:place]), -abs(place - by_time))
        )

    def _common(self, words: Sequence[Word]) -> int:
        """The number of last words, up to LOOK_BACK, that `words` and the confirmed ones share."""
        count = 0
        for old, word in zip(reversed(self.confirmed[-LOOK_BACK:]), reversed(words), strict=False):
            if spelling(old.text) != spelling(word.text):
                break
            count += 1
        return count


def spelling(text: str) -> str:
    """What two words that count as the same share: letters and digits, without case."""
    kept = (sign for sign in text if unicodedata.category(sign)[0] in "LNM")
    return "".join(kept).casefold() or text.strip()
