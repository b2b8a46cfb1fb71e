"""Windows that hear some of the same: every word once, whatever the halves at their edges are."""

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_speech import ScriptedEngine

from antiphon.engine.transcribing.overlaps import ATTENDED, Part, Said, joined, meeting
from antiphon.engine.transcribing.windows import Window
from antiphon.inputs.whisper.format import TimedTokens

LENGTH = 0.4  # seconds of a word


def said(words: list[str], first: float, errors: list[float] | None = None) -> list[Said]:
    wrong = errors or [0.0] * len(words)
    return [
        Said(word, first + LENGTH * i + wrong[i % len(wrong)], 1) for i, word in enumerate(words)
    ]


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 6),
    first=st.integers(0, 8),
    shared=st.integers(5, 12),
)
def test_every_word_is_kept_once(seed: int, count: int, first: int, shared: int) -> None:
    """Windows know their words to 0.1 s, but for the last one and the first, which are halves."""
    draw, last = random.Random(seed), first + shared
    spoken = draw.choices(["call", "seven", "nine", "zero", "the", "radio"][:count], k=24)
    errors = [draw.uniform(-0.1, 0.1) for _ in spoken]
    before = said([*spoken[: last - 1], "ra-"], 0.0, errors)
    behind = said(["-ven", *spoken[first + 1 :]], first * LENGTH, errors[::-1])
    start, end = first * LENGTH, last * LENGTH
    kept, dropped = meeting(before, behind, start, end, ATTENDED)
    heard = [word.text for word in [*before[:kept], *behind[dropped:]]]
    assert heard == spoken


def test_repeated_words_meet_where_they_were_said() -> None:
    words = ["no"] * 30
    before, behind = said(words[:20], 0.0), said(words[12:], 12 * LENGTH)
    kept, dropped = meeting(before, behind, 12 * LENGTH, 20 * LENGTH, ATTENDED)
    assert kept + 18 - dropped == 30


def test_words_that_differ_are_cut_at_a_time() -> None:
    before, behind = said(list("abcdefgh"), 0.0), said(list("uvwxyz"), 4 * LENGTH)
    assert meeting(before, behind, 4 * LENGTH, 8 * LENGTH, ATTENDED) == (6, 2)


@pytest.mark.parametrize("heard", ["before", "behind", "neither"])
def test_what_one_window_alone_has_heard_is_kept(heard: str) -> None:
    before = said(list("abcd") if heard == "before" else list("a"), 0.0)
    behind = said(list("wxyz") if heard == "behind" else list("z"), 0.8 if heard == "behind" else 9)
    kept, dropped = meeting(before, behind, 0.8, 2.0, ATTENDED)
    assert (kept, dropped) == (len(before), 0)


def part(
    engine: ScriptedEngine, start: float, end: float, pieces: list[tuple[float, str, float | None]]
) -> Part:
    window: Any = Window(start, end, None)  # type: ignore[arg-type]
    timed, count = [], 0
    for begin, text, stop in pieces:
        ids = engine.ids(text)
        positions = list(range(count + 1, count + 1 + len(ids)))  # behind a timestamp
        timed.append(TimedTokens(begin, stop, ids, positions))
        count = positions[-1] + 1
    output = SimpleNamespace(token_frames=None)
    decoded: Any = SimpleNamespace(output=output, language="en")
    return Part(window, decoded, timed)


def texts(engine: ScriptedEngine, one: Part) -> list[str]:
    return [engine.inputs.decode(piece.token_ids).strip() for piece in one.pieces]


def test_segments_end_and_begin_where_windows_meet(whisper_folder: Any) -> None:
    engine = ScriptedEngine(whisper_folder)
    before = part(engine, 0, 12, [(0, "call seven nine zero", 8), (8, "turn on the radio", None)])
    behind = part(engine, 8, 20, [(0, "turn on the radio in the", 6), (6, "office", 8)])
    first, second = joined(before, behind, engine.inputs.decode)
    assert texts(engine, first) == ["call seven nine zero", "turn on"]
    assert texts(engine, second) == ["the radio in the", "office"]
    assert first.pieces[-1].end == pytest.approx(second.pieces[0].start + 8)
    assert second.pieces[0].positions[0] > 1
    for piece in [*first.pieces, *second.pieces]:
        assert len(piece.token_ids) == len(piece.positions)
        assert piece.end is not None
        assert piece.start <= piece.end


def test_a_window_without_words_takes_none_away(whisper_folder: Any) -> None:
    engine = ScriptedEngine(whisper_folder)
    spoken = part(engine, 0, 12, [(0, "call seven nine zero", 11)])
    silent = replace(spoken, window=Window(8, 20, None), pieces=[])  # type: ignore[arg-type]
    assert joined(spoken, silent, engine.inputs.decode)[0].pieces == spoken.pieces
    later = replace(spoken, window=silent.window)
    nothing = replace(silent, window=spoken.window)
    assert joined(nothing, later, engine.inputs.decode)[1].pieces == later.pieces
