"""How far a window was heard where words have times: openai/whisper's rules for windows in turn.

All times are seconds from the window's start, unless they are said to be the recording's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from antiphon.engine.outputs import Segment, Word

PUNCTUATION = "\"'“¿([{-\"'.。,，!！?？:：”)]}、"
FEW_WORDS = 8  # of a segment, that tell whether it is made up
NEAR = 2.0  # seconds from a window's edge


class Reach(NamedTuple):
    """`kept`: segments that stand. `seconds`: where the next window begins; None: behind
    this one."""

    kept: int
    seconds: float | None
    is_skipped: bool = False  # only a silence was gone over: the window counts as not heard


@dataclass(frozen=True)
class Heard:
    """A window. `sound`: seconds of it; `whole`: of a full one. `start`: in the recording.
    `left`: seconds to the recording's end. `last_word`: when the last one before it ended.
    `last_slice`: where the last piece of its text ends, be there words in it or not."""

    sound: float
    whole: float
    start: float
    left: float
    last_word: float
    last_slice: float


def reach(
    heard: Heard,
    segments: Sequence[Segment],
    by_timestamps: float | None,
    ends_in_silence: bool,
    threshold: float | None,
) -> Reach:
    """`segments`: of this window, in the window's time. `by_timestamps`, `ends_in_silence`: what
    timestamps say. `threshold`: silences over it are skipped beside what may be made up."""
    seconds, last = by_timestamps, last_word_end(segments)
    last = heard.last_slice if last is None else last
    if not ends_in_silence and last > 0:
        seconds = last
        if threshold is not None and heard.whole - last <= threshold:
            seconds = None
    if threshold is None:
        return Reach(len(segments), seconds)
    spoken = [number for number, segment in enumerate(segments) if segment.words]
    if spoken and _is_anomaly(segments[spoken[0]]) and segments[spoken[0]].start > threshold:
        return Reach(0, segments[spoken[0]].start, is_skipped=True)
    made_up = _first_made_up(heard, segments, spoken, threshold)
    if made_up is None:
        return Reach(len(segments), seconds)
    segment = segments[made_up]
    if heard.left - segment.end < threshold:
        return Reach(made_up, heard.left)
    return Reach(made_up, max(1.0, segment.start))


def last_word_end(segments: Sequence[Segment]) -> float | None:
    words = [word for segment in segments for word in segment.words or ()]
    return words[-1].end if words else None


def _first_made_up(
    heard: Heard, segments: Sequence[Segment], spoken: Sequence[int], threshold: float
) -> int | None:
    """The first segment that is odd and stands between silences, or beside odd ones."""
    before = heard.last_word
    for place, number in enumerate(spoken):
        segment = segments[number]
        if _is_anomaly(segment):
            following = segments[spoken[place + 1]] if place + 1 < len(spoken) else None
            next_start = heard.sound
            if following is not None and following.words:
                next_start = following.words[0].start
            silent_before = (
                segment.start - before > threshold
                or segment.start + heard.start < threshold
                or segment.start < NEAR
            )
            silent_behind = (
                next_start - segment.end > threshold
                or (following is not None and _is_anomaly(following))
                or heard.whole - segment.end < NEAR
            )
            if silent_before and silent_behind:
                return number
        before = segment.end
    return None


def _is_anomaly(segment: Segment) -> bool:
    """Whether its words are unlikely, or too short or long to have been said."""
    words = [word for word in segment.words or () if word.text not in PUNCTUATION][:FEW_WORDS]
    score = sum(map(_oddness, words))
    return bool(segment.words) and (score >= 3 or score + 0.01 >= len(words))


def _oddness(word: Word) -> float:
    score, duration = 0.0, word.end - word.start
    if word.probability is not None and word.probability < 0.15:
        score += 1.0
    if duration < 0.133:
        score += (0.133 - duration) * 15
    return score + max(0.0, duration - 2.0)
