"""Labels of training windows in Whisper's token format, and when each of their words is said."""

import random
from dataclasses import dataclass
from pathlib import Path

import corpus
from checkpoint import (
    END,
    POSITIONS,
    RATE,
    START,
    TICKS_PER_SECOND,
    TIMESTAMPS,
    WINDOW_SECONDS,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from windows import SLACK, WINDOW, Placed, Window

NOWHERE = (-1, -1)  # of a token that no sound belongs to


@dataclass(frozen=True)
class Labels:
    """`inputs`, `targets`: token ids [n]; a target of -100 is not learned.

    `spans` [n]: encoder tokens (first, behind the last) in which the target is said, or NOWHERE.
    """

    inputs: list[int]
    targets: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Word:
    tokens: list[int]
    start: int  # sample of the window
    end: int


class Labeler:
    def __init__(
        self,
        folder: Path,
        spoken: list[corpus.Utterance],
        speech: list[corpus.Speech],
        ids: dict[str, int],
    ) -> None:
        """`folder`: of the tokenizer. `ids`: of all tokens."""
        self.spoken, self.speech, self.ids = spoken, speech, ids
        vocabulary, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
        bpe = Tokenizer(models.BPE.from_file(vocabulary, merges))
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        words = {word for u in spoken for text in (u.text, u.english) for word in text.split()}
        self.encoded = {word: bpe.encode(" " + word).ids for word in sorted(words)}

    def label(self, window: Window, rng: random.Random) -> Labels:
        """With or without timestamps, earlier text and translation, at random."""
        translate = not window.is_cut and rng.random() < (0.3 if window.language == "de" else 0.05)
        timestamps = rng.random() < 0.6
        prompt = self._earlier(window.before, rng) if rng.random() < 0.5 else []
        ids, task = self.ids, "<|translate|>" if translate else "<|transcribe|>"
        text: list[int] = []
        spans: list[tuple[int, int]] = []
        for item in window.placed:
            self._add(item, window, translate, timestamps, text, spans)
        lead = [ids[START], ids[f"<|{window.language}|>"], ids[task]]
        if not timestamps:
            lead.append(ids["<|notimestamps|>"])
        elif not text:
            text, spans = [self._timestamp(0)], [NOWHERE]
        last = spans[-1] if spans else NOWHERE  # of the closing timestamp: behind the last word
        if not timestamps and last != NOWHERE:
            last = _behind(last[1])
        tokens = [*prompt, *lead, *text, ids[END]][: POSITIONS + 1]
        targets = tokens[1:]
        masked = len(prompt)  # the task is always given, and never learned; the language is
        targets[:masked] = [-100] * masked
        targets[masked + 1 : masked + len(lead) - 1] = [-100] * (len(lead) - 2)
        if not any(self._words(item, window.end) for item in window.placed):
            targets[masked] = ids["<|nospeech|>"]
        padding = [NOWHERE] * (len(prompt) + len(lead) - 1)
        return Labels(tokens[:-1], targets, [*padding, *spans, last][: len(targets)])

    def _add(
        self,
        item: Placed,
        window: Window,
        translate: bool,
        timestamps: bool,
        text: list[int],
        spans: list[tuple[int, int]],
    ) -> None:
        """One sentence, as far as it is heard.

        With timestamps a sentence that the recording goes on with behind the window has its
        beginning alone: the next window begins there.
        """
        words = self._words(item, window.end)
        goes_on = window.end == WINDOW and self._end(item) > WINDOW + SLACK
        if timestamps and goes_on:
            if 0 <= item.start < WINDOW:
                text.append(self._timestamp(item.start + self._first(item)))
                spans.append(NOWHERE)
            return
        if not words:
            return
        said = self.spoken[item.index]
        tokens = [token for word in words for token in word.tokens]
        where = [self._span(word) for word in words for _ in word.tokens]
        if translate:
            tokens = [token for word in said.english.split() for token in self.encoded[word]]
            where = [NOWHERE] * len(tokens)
        if timestamps:
            first, last = words[0].start, words[-1].end
            tokens = [self._timestamp(first), *tokens, self._timestamp(last)]
            closing = NOWHERE if translate else _behind(where[-1][1])
            where = [NOWHERE, *where, closing]
        text += tokens
        spans += where

    def _words(self, item: Placed, end: int) -> list[Word]:
        """Those whose middle is heard in the window's first `end` samples."""
        speech = self.speech[item.index]
        starts = [*speech.word_starts, speech.end]
        words = []
        for number, text in enumerate(self.spoken[item.index].text.split()):
            start = starts[number]
            behind = next((other for other in starts[number:] if other > start), speech.end)
            middle = item.start + (start + behind) / 2
            if 0 <= middle < end:
                first, last = max(0, item.start + start), min(end, item.start + behind)
                words.append(Word(self.encoded[text], first, last))
        return words

    def _span(self, word: Word) -> tuple[int, int]:
        first, last = (edge * TICKS_PER_SECOND / RATE for edge in (word.start, word.end))
        return round(first), max(round(first) + 1, round(last))

    def _first(self, item: Placed) -> int:
        return self.speech[item.index].word_starts[0]

    def _end(self, item: Placed) -> int:
        return item.start + self.speech[item.index].end

    def _earlier(self, before: list[int], rng: random.Random) -> list[int]:
        """<|startofprev|> and the last tokens of sentences, with timestamps in three of four."""
        has_times, tick = rng.random() < 0.75, 0
        tokens: list[int] = []
        for index in before:
            words = [t for word in self.spoken[index].text.split() for t in self.encoded[word]]
            first = tick + rng.randrange(40)
            tick = first + self.speech[index].end * TICKS_PER_SECOND // RATE
            if tick >= len(TIMESTAMPS):
                first, tick = 0, tick - first
            if has_times:
                words = [self._tick(first), *words, self._tick(tick)]
            tokens += words
        return [self.ids["<|startofprev|>"], *tokens[-(POSITIONS // 2 - 1) :]] if tokens else []

    def _timestamp(self, sample: int) -> int:
        return self._tick(round(sample / RATE * TICKS_PER_SECOND))

    def _tick(self, tick: int) -> int:
        return self.ids[TIMESTAMPS[min(max(tick, 0), len(TIMESTAMPS) - 1)]]


def _behind(tick: int) -> tuple[int, int]:
    """Where what ends a text is heard: a quarter of a second from there."""
    first = min(tick, WINDOW_SECONDS * TICKS_PER_SECOND - 1)
    return first, first + TICKS_PER_SECOND // 4
