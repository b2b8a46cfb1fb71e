"""Which tokens of a window make words, and the words' times, by openai/whisper's rules."""

import pytest

from antiphon.inputs.whisper.word_split import split_into_words
from antiphon.inputs.whisper.words import (
    TimedWord,
    WindowWords,
    WordRules,
    find_words,
    fit,
)

OWN = WordRules()
PIECES = {
    1: " Hel", 2: "lo", 3: ",", 4: " world", 5: ".", 6: ' "', 7: "Who", 8: '?"', 9: " ",
    10: "不", 13: "是", 14: "\ufffd", 15: " it", 16: "-", 17: "s",
}  # fmt: skip
HALVES = {11: "é".encode()[:1], 12: "é".encode()[1:]}  # of a character


def decode(ids: list[int]) -> str:
    content = b"".join(HALVES.get(id_) or PIECES[id_].encode() for id_ in ids)
    return content.decode(errors="replace")


@pytest.mark.parametrize(
    ("language", "ids", "words"),
    [
        ("en", [], []),
        ("en", [1, 2, 3, 4, 5], [(" Hello", 2), (",", 1), (" world", 1), (".", 1)]),
        ("en", [7, 2], [("Wholo", 2)]),  # the first word may lack its blank
        ("en", [15, 16, 17], [(" it", 1), ("-s", 2)]),  # as openai/whisper: a mark begins a word
        ("en", [1, 11, 12, 17], [(" Helés", 4)]),
        ("en", [1, 11], [(" Hel\ufffd", 2)]),  # cut off within a character
        ("en", [4, 14, 4], [(" world\ufffd", 2), (" world", 1)]),  # the text itself has the mark
        ("zh", [10, 13, 3], [("不", 1), ("是", 1), (",", 1)]),
        ("ja", [11, 12, 10], [("é", 2), ("不", 1)]),
        ("de", [10, 13, 3], [("不是", 2), (",", 1)]),
    ],
)
def test_splitting(language: str, ids: list[int], words: list[tuple[str, int]]) -> None:
    assert split_into_words(ids, decode, language) == words
    assert "".join(text for text, _ in words) == decode(ids)


def words_of(ids: list[int], starts: list[float], rules: WordRules = OWN) -> WindowWords:
    chances = [0.5 + 0.1 * (i % 2) for i in range(len(ids))]
    return find_words(ids, starts, chances, decode, "en", rules)


def shown(words: list[TimedWord]) -> list[tuple[str, float, float]]:
    return [(word.text, round(word.start, 3), round(word.end, 3)) for word in words if word.text]


def test_marks_join_their_words() -> None:
    ids = [6, 1, 2, 3, 4, 5]  # ' "', ' Hel', 'lo', ',', ' world', '.'
    words = words_of(ids, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    assert shown(words.words) == [(' " Hello,', 0.2, 0.6), (" world.", 0.8, 1.0)]
    assert [word.tokens for word in words.words if word.text] == [4, 2]
    assert words.words[1].probability == pytest.approx((0.6 + 0.5) / 2)


def test_marks_of_the_caller() -> None:
    words = words_of([1, 2, 3, 4], [0.0, 0.2, 0.4, 0.6, 0.8], WordRules("", ""))
    assert shown(words.words) == [(" Hello", 0.0, 0.4), (",", 0.4, 0.6), (" world", 0.6, 0.8)]


def test_a_pause_between_sentences_belongs_to_no_word() -> None:
    ids = [4, 5, 4, 5, 4]
    words = words_of(ids, [0.0, 0.3, 2.0, 2.3, 2.5, 9.0])
    # Of 0.3, 1.7, 0.3, 0.2 and 6.5 s the median is 0.3.
    assert words.usual == pytest.approx(0.3)
    assert [round(word.end - word.start, 3) for word in words.words if word.text] == [0.3, 0.3, 0.6]
    assert shown(words.words)[-1] == (" world", 8.4, 9.0)


def test_unknown_probabilities_are_none() -> None:
    words = find_words([1, 2, 4], [0, 1, 2, 3], [None, 0.25, None], decode, "en", OWN)
    assert [word.probability for word in words.words] == [0.25, None]


def test_words_go_to_the_segments_whose_tokens_they_have() -> None:
    words = words_of([1, 2, 3, 4, 5, 15], [0.1 * i for i in range(7)])
    assert [word.text for word in words.take(3)] == [" Hello,"]
    assert [word.text for word in words.take(2)] == [" world."]
    assert [word.text for word in words.take(1)] == [" it"]
    assert words.take(5) == []


def word(start: float, end: float) -> TimedWord:
    return TimedWord(" a", 1, start, end, None)


def window(usual: float) -> WindowWords:
    return WindowWords([word(0, usual)])


@pytest.mark.parametrize(
    ("words", "segment", "silent_since", "expected", "bounds"),
    [
        # Nothing to mend: the segment's times follow its words.
        ([(1.0, 1.3), (1.3, 1.6)], (0.9, 2.0), 0.9, [(1.0, 1.3), (1.3, 1.6)], (1.0, 1.6)),
        # Behind a pause the first word is at most twice as long as usual.
        ([(1.0, 4.0), (4.0, 4.2)], (3.0, 4.2), 1.0, [(3.4, 4.0), (4.0, 4.2)], (3.4, 4.2)),
        # So are the first two together.
        ([(0.0, 2.0), (2.0, 4.0)], (3.0, 4.0), 0.0, [(2.8, 3.4), (3.4, 4.0)], (2.8, 4.0)),
        # A word that begins far before its segment: the segment's start counts.
        ([(1.0, 1.9)], (1.8, 1.9), 0.9, [(1.6, 1.9)], (1.8, 1.9)),
        # One that ends far behind it: the segment's end counts.
        ([(1.0, 1.3), (1.3, 3.0)], (1.0, 1.5), 1.0, [(1.0, 1.3), (1.3, 1.6)], (1.0, 1.5)),
    ],
)
def test_words_fit_their_segment(
    words: list[tuple[float, float]],
    segment: tuple[float, float],
    silent_since: float,
    expected: list[tuple[float, float]],
    bounds: tuple[float, float],
) -> None:
    timed = [word(*times) for times in words]
    fitted, start, end = fit(timed, *segment, silent_since, window(0.3))
    assert [(each.start, each.end) for each in fitted] == [pytest.approx(e) for e in expected]
    assert (start, end) == pytest.approx(bounds)


def test_a_segment_without_words_keeps_its_times() -> None:
    assert fit([], 1.0, 2.0, 0.0, window(0.3)) == ([], 1.0, 2.0)
