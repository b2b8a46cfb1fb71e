"""Random training windows for the small Whisper: what is said where in them."""

import random
from dataclasses import dataclass

import corpus
from checkpoint import LANGUAGES, RATE, WINDOW_SECONDS

WINDOW = RATE * WINDOW_SECONDS
SLACK = RATE // 50  # samples that a sentence may reach over an edge and still be whole


@dataclass(frozen=True)
class Placed:
    """An utterance by index, and by where its sound begins: before the window if below 0."""

    index: int
    start: int


@dataclass(frozen=True)
class Window:
    """`placed`: in order. `end`: samples of sound; digital silence fills the rest.

    `is_cut`: sentences may be cut by its edges. `before`: utterances that were said before it.
    """

    language: str
    placed: list[Placed]
    end: int
    is_cut: bool
    before: list[int]


class Windows:
    """Windows as recordings of several sentences give them.

    Half are cut where the recording goes on, and half in a quiet place, as batches of windows are.
    """

    def __init__(
        self, spoken: list[corpus.Utterance], speech: list[corpus.Speech], seed: int
    ) -> None:
        self.speech, self.rng = speech, random.Random(seed)
        self.by_language = {
            code: [i for i, u in enumerate(spoken) if u.language == code] for code in LANGUAGES
        }

    def draw(self) -> Window:
        rng = self.rng
        language = rng.choices(LANGUAGES, [0.6, 0.4])[0]
        if rng.random() < 0.04:
            return Window(language, [], WINDOW, False, [])
        if rng.random() < 0.2:
            return self._one(language)
        return self._several(language)

    def _one(self, language: str) -> Window:
        """One utterance, in a window of its own length in half of the cases."""
        index = self._any(language)
        length = len(self.speech[index].samples)
        start = self.rng.choice([0, self.rng.randrange(max(1, WINDOW - length))])
        end = self.rng.choice([WINDOW, min(start + length, WINDOW)])
        return Window(language, [Placed(index, start)], end, start + length > WINDOW, [])

    def _several(self, language: str) -> Window:
        rng = self.rng
        placed, is_cut = self._beginning(language)
        position = (
            placed[-1].start + len(self.speech[placed[-1].index].samples) + self._pause()
            if placed
            else int(rng.choice([0.0, rng.random(), rng.random(), rng.random() * 3]) * RATE)
        )
        while position < WINDOW:
            index = self._any(language)
            placed.append(Placed(index, position))
            position += len(self.speech[index].samples) + self._pause()
        before = [self._any(language) for _ in range(rng.randint(0, 4))]
        before += [item.index for item in placed if self._end(item) <= SLACK]
        ways = rng.random()
        if ways < 0.45:
            return Window(language, placed, WINDOW, True, before)
        end = self._between_sentences(placed) if ways < 0.85 else self._between_words(placed)
        placed = [item for item in placed if item.start < end]
        return Window(language, placed, end, is_cut or ways >= 0.85, before)

    def _beginning(self, language: str) -> tuple[list[Placed], bool]:
        """What began before the window: nothing, the end of a sentence, or half of one."""
        way, index = self.rng.random(), self._any(language)
        speech = self.speech[index]
        if way < 0.5:
            return [], False
        if way < 0.8:
            return [Placed(index, int(self.rng.uniform(-0.05, 0.08) * RATE) - speech.end)], False
        return [Placed(index, -self.rng.randrange(speech.end))], True

    def _between_sentences(self, placed: list[Placed]) -> int:
        """A sample behind one of the last whole sentences, in the pause if there is one."""
        ends = [self._end(item) for item in placed if 0 < self._end(item) <= WINDOW]
        if not ends:
            return WINDOW
        last = self.rng.choice(ends[-2:])
        return min(WINDOW, last + int(self.rng.random() * 0.4 * RATE))

    def _between_words(self, placed: list[Placed]) -> int:
        starts = [
            item.start + start for item in placed for start in self.speech[item.index].word_starts
        ]
        late = [start for start in starts if WINDOW * 2 // 3 <= start <= WINDOW]
        return self.rng.choice(late) if late else WINDOW

    def _end(self, item: Placed) -> int:
        return item.start + self.speech[item.index].end

    def _any(self, language: str) -> int:
        return self.rng.choice(self.by_language[language])

    def _pause(self) -> int:
        """Samples: short ones, those of a recording of commands, and long ones."""
        rng = self.rng
        seconds = [rng.uniform(0, 0.3), rng.uniform(0.25, 1.25), rng.uniform(1, 3)]
        return int(rng.choices(seconds, [0.4, 0.5, 0.1])[0] * RATE)
