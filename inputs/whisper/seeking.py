"""How far a window's text reaches, for the window after it: openai/whisper's rule."""

from typing import NamedTuple

from antiphon.inputs.whisper.format import TimedTokens, WhisperFormat


class Slice(NamedTuple):
    """One segment: its text, and all its tokens, which the next window's prompt may hold."""

    timed: TimedTokens
    token_ids: list[int]


class Cut(NamedTuple):
    """A window's segments. `seconds`: where the next window begins; None: behind this one."""

    slices: list[Slice]
    seconds: float | None
    ends_in_silence: bool  # one timestamp alone at the end: nothing is said behind it


def cut_at_timestamps(format_: WhisperFormat, token_ids: list[int]) -> Cut:
    """`token_ids`: generated with or without timestamps, up to the token that ended them.

    Two timestamps in a row end one segment and begin the next. What is behind the last such pair
    was cut off by the window's end and is heard again, unless it ends with a timestamp of its own.
    """
    if token_ids and token_ids[-1] == format_.end_id:
        token_ids = token_ids[:-1]
    times = [format_.seconds_of(token) for token in token_ids]
    pairs = [i for i in range(1, len(times)) if None not in (times[i - 1], times[i])]
    alone = len(times) >= 2 and times[-2] is None and times[-1] is not None
    if not pairs:
        last = next((time for time in reversed(times) if time is not None), None)
        whole = _slice(format_, token_ids, 0, len(token_ids), 0.0, last or None)
        return Cut([whole], None, alone)
    bounds = [*pairs, len(token_ids)] if alone else pairs
    slices = []
    for first, last in zip([0, *bounds], bounds, strict=False):
        start, end = times[first], times[last - 1]
        slices.append(_slice(format_, token_ids, first, last, start or 0.0, end))
    return Cut(slices, None if alone else times[bounds[-1] - 1], alone)


def _slice(
    format_: WhisperFormat,
    token_ids: list[int],
    first: int,
    last: int,
    start: float,
    end: float | None,
) -> Slice:
    positions = [i for i in range(first, last) if format_.is_text(token_ids[i])]
    timed = TimedTokens(start, end, [token_ids[i] for i in positions], positions)
    return Slice(timed, token_ids[first:last])
