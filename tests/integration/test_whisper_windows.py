"""Training windows of the shipped Whisper: labels say what is heard, and when."""

import json
import random
import sys
from types import ModuleType

import numpy as np
import pytest
from paths import EXAMPLES

FOLDER = EXAMPLES / "whisper_commands"
NAMES = ("corpus", "windows", "labels", "checkpoint", "espeak", "guidance")
RATE = 16_000


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in NAMES:  # other folders of examples use the same names
        monkeypatch.delitem(sys.modules, name, raising=False)
    loaded = {name: __import__(name) for name in NAMES}
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name)
    return loaded


@pytest.fixture
def ids() -> dict[str, int]:
    model = FOLDER / "model"
    texts = ((model / name).read_text() for name in ("vocab.json", "added_tokens.json"))
    first, second = map(json.loads, texts)
    return first | second


def spoken(corpus: ModuleType, language: str, text: str, english: str) -> object:
    return corpus.Utterance(language, text, english, "en", 150, 50)


@pytest.fixture
def labeled(modules: dict[str, ModuleType], ids: dict[str, int]) -> tuple[object, object, object]:
    """Windows and labels of two sentences of 2 s, with a word each half second, and their
    labeler."""
    corpus = modules["corpus"]
    said = [
        spoken(corpus, "en", "call one two three", "call one two three"),
        spoken(corpus, "de", "wecke mich heute um", "wake me up today"),
    ]
    speech = [
        corpus.Speech(np.ones(2 * RATE, np.int16), (0, RATE // 2, RATE, RATE * 3 // 2), 2 * RATE)
    ] * 2
    windows = modules["windows"].Windows(said, speech, seed=1)
    return windows, modules["labels"].Labeler(FOLDER / "model", said, speech, ids), modules


def text_of(labels: object, ids: dict[str, int]) -> list[str]:
    names = {number: name for name, number in ids.items()}
    return [names[target].replace("Ġ", " ") for target in labels.targets if target >= 0]


def plainly(modules: dict[str, ModuleType], start: float, end: float = 8.0) -> object:
    windows = modules["windows"]
    placed = [windows.Placed(0, round(start * RATE))]
    return windows.Window("en", placed, round(end * RATE), True, [])


class Chances(random.Random):
    """Always the same number: with it, timestamps are asked for or not."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize(
    ("start", "end", "timed", "plain"),
    [
        (1.0, 8.0, "<|1.00|> call one two three<|3.00|>", " call one two three"),
        (-0.9, 8.0, "<|0.10|> two three<|1.10|>", " two three"),
        (7.0, 8.0, "<|7.00|>", " call one"),  # goes on behind the window, which is heard again
        (6.0, 7.0, "<|6.00|> call one<|7.00|>", " call one"),  # was cut in a quiet place
        (6.02, 8.0, "<|6.02|> call one two three<|8.00|>", " call one two three"),
        (8.5, 8.0, "<|0.00|>", ""),
    ],
)
def test_sentences_at_the_edges(
    labeled: tuple, ids: dict[str, int], start: float, end: float, timed: str, plain: str
) -> None:
    _, labeler, modules = labeled
    window = plainly(modules, start, end)
    has_times = "".join(text_of(labeler.label(window, Chances(0.55)), ids)[1:])
    assert has_times == timed + "<|endoftext|>"
    has_none = "".join(text_of(labeler.label(window, Chances(0.99)), ids)[1:])
    assert has_none == plain + "<|endoftext|>"


def test_silence_is_told_by_the_first_token(labeled: tuple, ids: dict[str, int]) -> None:
    _, labeler, modules = labeled
    empty = modules["windows"].Window("en", [], 8 * RATE, False, [])
    assert text_of(labeler.label(empty, Chances(0.99)), ids)[0] == "<|nospeech|>"
    assert text_of(labeler.label(plainly(modules, 1), Chances(0.99)), ids)[0] == "<|en|>"


def test_spans_are_where_words_are_said(labeled: tuple, ids: dict[str, int]) -> None:
    _, labeler, modules = labeled
    names = {number: name for name, number in ids.items()}
    labels = labeler.label(plainly(modules, 1.0), Chances(0.99))
    spans = {
        names[target]: span
        for target, span in zip(labels.targets, labels.spans, strict=True)
        if target >= 0
    }
    assert spans == {
        "<|en|>": (-1, -1), "Ġcall": (50, 75), "Ġone": (75, 100), "Ġtwo": (100, 125),
        "Ġthree": (125, 150), "<|endoftext|>": (150, 162),
    }  # fmt: skip


def test_labels_fit_the_decoder(labeled: tuple, ids: dict[str, int]) -> None:
    windows, labeler, modules = labeled
    rng, positions = random.Random(0), modules["checkpoint"].POSITIONS
    prompts = 0
    for _ in range(300):
        window = windows.draw()
        assert 0 < window.end <= 8 * RATE
        labels = labeler.label(window, rng)
        assert len(labels.inputs) == len(labels.targets) == len(labels.spans) <= positions
        begin = labels.inputs.index(ids["<|startoftranscript|>"])
        prompts += begin > 0
        assert begin <= positions // 2
        assert set(labels.targets[:begin]) <= {-100}
    assert prompts > 50
