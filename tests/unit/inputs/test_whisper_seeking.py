"""How far a window's text reaches, what prompts hold, what is barred, and when a text fails.

The expected values follow openai/whisper's transcribe().
"""

from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.config.decoding_rules import DecodingRules, RuleChanges, TimestampRules
from antiphon.engine.transcribing.sequential import History
from antiphon.inputs.calls.earlier_text import EarlierText
from antiphon.inputs.calls.fallback import Fallback
from antiphon.inputs.whisper.prompts import window_prompt
from antiphon.inputs.whisper.seeking import cut_at_timestamps
from antiphon.inputs.whisper.tokens import non_speech_ids

FIRST, END, START, BEFORE = 100, 50, 51, 52


def seconds_of(token: int) -> float | None:
    return (token - FIRST) * 0.02 if token >= FIRST else None


FORMAT: Any = SimpleNamespace(
    end_id=END, positions=20, previous_id=BEFORE, seconds_of=seconds_of,
    is_text=lambda token: token < END,
)  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "segments", "next_window"),
    [
        # Cut off in the third segment: it is heard again.
        ([100, 1, 150, 150, 2, 200, 200, 3, END], [(0.0, 1.0, [1]), (1.0, 2.0, [2])], 2.0),
        # One timestamp at the end: nothing is said behind it.
        ([100, 1, 150, 150, 2, 200, END], [(0.0, 1.0, [1]), (1.0, 2.0, [2])], None),
        ([100, 1, 150, 150, END], [(0.0, 1.0, [1])], 1.0),
        ([105, 1, 150, 160, 2, 3, 210, 215], [(0.1, 1.0, [1]), (1.2, 2.2, [2, 3])], 2.2),
        # No pair: one segment from the window's start, whatever its first timestamp says.
        ([110, 1, 2, 170, END], [(0.0, 1.4, [1, 2])], None),
        ([110, 1, 2, END], [(0.0, 0.2, [1, 2])], None),
        ([100, 1, 2], [(0.0, None, [1, 2])], None),
        ([1, 2, END], [(0.0, None, [1, 2])], None),
        ([], [(0.0, None, [])], None),
    ],
)
def test_windows_are_cut_at_their_timestamps(
    tokens: list[int], segments: list[Any], next_window: float | None
) -> None:
    cut = cut_at_timestamps(FORMAT, tokens)
    found = [(piece.timed.start, piece.timed.end, piece.timed.token_ids) for piece in cut.slices]
    assert found == [
        (pytest.approx(start), end if end is None else pytest.approx(end), ids)
        for start, end, ids in segments
    ]
    assert cut.seconds == (None if next_window is None else pytest.approx(next_window))
    for piece in cut.slices:
        assert [tokens[i] for i in piece.timed.positions] == piece.timed.token_ids


def test_prompts_hold_less_than_half_of_the_positions() -> None:
    """9 of 20: the last of the earlier text, the first of hotwords and prefix."""
    prompt = window_prompt(FORMAT, [START], range(30))
    assert prompt == ([BEFORE, *range(21, 30), START], 10, 0)
    prompt = window_prompt(FORMAT, [START], [1, 2, 3], hotwords=[7, 8])
    assert prompt == ([BEFORE, 7, 8, 1, 2, 3, START], 6, 0)
    prompt = window_prompt(FORMAT, [START], range(30), hotwords=range(40, 60))
    assert prompt.token_ids == [BEFORE, *range(40, 49), START]
    prompt = window_prompt(FORMAT, [START], hotwords=[7], prefix=range(30))
    assert prompt == ([START, *range(9)], 0, 0)
    assert window_prompt(FORMAT, [START]) == ([START], 0, 0)


@pytest.mark.parametrize("times", [True, False])
def test_a_prefix_that_is_kept_begins_the_text(times: bool) -> None:
    format_ = SimpleNamespace(
        **vars(FORMAT), wants_timestamps=lambda sequence: times, first_timestamp_id=FIRST
    )
    begun = [FIRST, 7, 8] if times else [7, 8]
    sequence = [START, 60]
    prompt = window_prompt(format_, sequence, [1, 2], [3], [7, 8], keep_prefix=True)  # type: ignore[arg-type]
    assert prompt == ([BEFORE, 1, 2, *sequence, *begun], 3, len(begun))
    plain = window_prompt(format_, sequence, [1, 2], [3], [7, 8])  # type: ignore[arg-type]
    assert plain == ([BEFORE, 1, 2, *sequence, 7, 8], 3, 0)
    nothing = window_prompt(format_, sequence, keep_prefix=True)  # type: ignore[arg-type]
    assert nothing == (sequence, 0, 0)


def test_earlier_text_is_forgotten_behind_a_high_temperature() -> None:
    history = History(EarlierText(initial=(1, 2), continued=True), positions=448)
    assert history.tokens() == [1, 2]
    history.add([3])
    history.end_window(0.4)
    assert history.tokens() == [1, 2, 3]
    history.add([4])
    history.end_window(0.6)
    assert history.tokens() == []
    history.add([5])
    history.end_window(0.0)
    assert history.tokens() == [5]


def test_a_carried_prompt_stands_before_what_was_said() -> None:
    history = History(EarlierText(initial=(1, 2), carried=True, continued=True), positions=20)
    history.add(list(range(10, 30)))
    history.end_window(0.0)
    assert history.tokens() == [1, 2, *range(23, 30)]
    history.end_window(1.0)
    assert history.tokens() == [1, 2]
    alone = History(EarlierText(initial=(1, 2)), positions=20)
    alone.end_window(0.0)
    assert alone.tokens() == [], "without condition_on_previous_text: of the first window alone"


def test_changed_rules_leave_the_others() -> None:
    rules = DecodingRules(
        suppress=(1,), begin_suppress=(2,), timestamps=TimestampRules(100, 99, 50, 50)
    )
    assert RuleChanges().applied(rules) == rules
    changed = RuleChanges(suppress=(7, 8), begin_suppress=(), max_initial=3).applied(rules)
    assert (changed.suppress, changed.begin_suppress) == ((7, 8), ())
    assert changed.timestamps == TimestampRules(100, 99, 50, 3)
    assert RuleChanges(max_initial=3).applied(DecodingRules()).timestamps is None


def test_marks_are_barred_where_they_are_one_token_and_notes_by_their_first() -> None:
    ids = {" -": [1], " '": [2], "(": [3], "[": [4], " (": [5], "--": [6, 7], "♪": [8, 9]}

    def encode(text: str) -> list[int]:
        return ids.get(text, [70, 71] if "♪" not in text else [8, 9])

    barred = set(non_speech_ids(encode))
    assert {1, 2, 3, 4, 5, 8} <= barred
    assert not {6, 7, 9} & barred


@pytest.mark.parametrize(
    ("ratio", "avg_logprob", "no_speech", "failed", "silence"),
    [
        (1.0, -0.5, 0.1, False, False),
        (2.5, -0.5, 0.1, True, False),  # repeats itself
        (2.4, -1.0, 0.1, False, False),  # at the thresholds
        (1.0, -1.1, 0.1, True, False),  # a guess
        (1.0, -1.1, 0.7, False, True),  # a guess at silence
        (2.5, -1.1, 0.7, False, True),
        (2.5, -0.5, 0.7, True, False),
        (1.0, -0.5, 0.7, False, False),  # sure of its words
        (1.0, -1.0, 0.7, False, True),
        (2.5, None, None, True, False),
        (1.0, None, 0.7, False, False),
    ],
)
def test_the_rules_are_openais(
    ratio: float, avg_logprob: float | None, no_speech: float | None, failed: bool, silence: bool
) -> None:
    rules = Fallback()
    assert rules.failed(ratio, avg_logprob, no_speech) is failed
    assert rules.is_silence(avg_logprob, no_speech) is silence
    off = Fallback((0.0,), 1, None, None, None)
    assert not off.failed(ratio, avg_logprob, no_speech)
    assert not off.is_silence(avg_logprob, no_speech)
