"""Two windows that hear the same seconds: where the text of one goes over into the other's.

Words that both have heard are found by their text and time. The cut lies amid these: the words at
the very end of a window, and at its very start, may be halves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from antiphon.engine.transcribing.attempts import Decoded
from antiphon.engine.transcribing.windows import Window
from antiphon.inputs.whisper.format import TimedTokens
from antiphon.inputs.whisper.tokens import SECONDS_PER_TICK
from antiphon.inputs.whisper.word_split import split_into_words

# Seconds by which the times of words may be wrong: of those that attention tells, and of others,
# which lie evenly in their segment.
ATTENDED, INTERPOLATED = 0.3, 2.0
Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Part:
    """A window, and the pieces of its text that count."""

    window: Window
    decoded: Decoded
    pieces: list[TimedTokens]


@dataclass(frozen=True)
class Said:
    """A word. `text`: without case and punctuation. `time`: of the recording, when it begins."""

    text: str
    time: float
    tokens: int


def joined(before: Part, behind: Part, decode: Decode) -> tuple[Part, Part]:
    """Both without what the other one keeps. `behind` begins before `before` ends."""
    first, second = _words(before, decode), _words(behind, decode)
    known = all(part.decoded.output.token_frames is not None for part in (before, behind))
    kept, dropped = meeting(
        first,
        second,
        behind.window.start,
        before.window.end,
        ATTENDED if known else INTERPOLATED,
    )
    cut = second[dropped].time if dropped < len(second) else before.window.end
    num_kept = sum(word.tokens for word in first[:kept])
    num_dropped = sum(word.tokens for word in second[:dropped])
    ended = [_up_to(piece, cut, before.window) for piece in _taken(before.pieces, 0, num_kept)]
    begun = [_from(piece, cut, behind.window) for piece in _taken(behind.pieces, num_dropped)]
    return replace(before, pieces=ended), replace(behind, pieces=begun)


def meeting(
    before: Sequence[Said], behind: Sequence[Said], start: float, end: float, error: float
) -> tuple[int, int]:
    """How many words `before` keeps, and how many of `behind` are dropped. `start`, `end`: what
    both hear, in the recording's time. `error`: of words' times, in seconds."""
    first = [i for i, word in enumerate(before) if word.time >= start - error]
    second = [j for j, word in enumerate(behind) if word.time <= end + error]
    best, place = 0.0, None
    for i in first:
        for j in second:
            if not (length := _common(before[i:], behind[j : second[-1] + 1])):
                continue
            apart = sum(before[i + n].time - behind[j + n].time for n in range(length)) / length
            if (score := length - 2 * abs(apart) / error) > best:
                best, place = score, (i + length // 2, j + length // 2)
    if place is not None:
        return place
    if not any(before[i].time >= start for i in first) or not any(
        behind[j].time < end for j in second
    ):
        return len(before), 0  # only one of them has heard words there
    middle = (start + end) / 2
    return (
        sum(word.time < middle for word in before),
        sum(word.time < middle for word in behind),
    )


def _common(before: Sequence[Said], behind: Sequence[Said]) -> int:
    """How many words both begin with."""
    length = 0
    for one, other in zip(before, behind, strict=False):
        if one.text != other.text or not one.text:
            break
        length += 1
    return length


def _words(part: Part, decode: Decode) -> list[Said]:
    """Of a window, punctuation with the word before it."""
    said: list[Said] = []
    for piece in part.pieces:
        words = split_into_words(piece.token_ids, decode, part.decoded.language)
        firsts = accumulate((count for _, count in words), initial=0)
        for (text, count), first in zip(words, firsts, strict=False):
            bare = "".join(letter for letter in text.lower() if letter.isalnum())
            if not bare and said:
                said[-1] = replace(said[-1], tokens=said[-1].tokens + count)
            else:
                said.append(Said(bare, _time(part, piece, first), count))
    return said


def _time(part: Part, piece: TimedTokens, number: int) -> float:
    """When a token of a piece begins: as its attention says, or as far as it is in the piece."""
    frames = part.decoded.output.token_frames
    if frames is not None and (frame := frames[piece.positions[number]]) >= 0:
        return part.window.at(frame * SECONDS_PER_TICK)
    end = part.window.end if piece.end is None else part.window.at(piece.end, is_end=True)
    start = part.window.at(piece.start)
    return start + (end - start) * number / len(piece.token_ids)


def _taken(pieces: list[TimedTokens], first: int, last: int | None = None) -> list[TimedTokens]:
    """What has the text tokens from `first` to `last` of all pieces."""
    taken, begin = [], 0
    for piece in pieces:
        low = max(first - begin, 0)
        high = len(piece.token_ids) if last is None else max(last - begin, 0)
        if ids := piece.token_ids[low:high]:
            taken.append(replace(piece, token_ids=ids, positions=piece.positions[low:high]))
        begin += len(piece.token_ids)
    return taken


def _up_to(piece: TimedTokens, cut: float, window: Window) -> TimedTokens:
    """Which ends at time `cut` of the recording, if not before."""
    latest = max(window.position(cut), piece.start)
    return replace(piece, end=latest if piece.end is None else min(piece.end, latest))


def _from(piece: TimedTokens, cut: float, window: Window) -> TimedTokens:
    earliest = max(window.position(cut), piece.start)
    return replace(piece, start=earliest if piece.end is None else min(earliest, piece.end))
