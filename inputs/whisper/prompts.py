"""A window's decoder prompt: earlier text, the start sequence, and how its text begins."""

from collections.abc import Sequence
from typing import NamedTuple

from antiphon.inputs.whisper.format import WhisperFormat


class WindowPrompt(NamedTuple):
    token_ids: list[int]
    start: int  # the index of the start token
    begun: int = 0  # last tokens, which are part of the text


def window_prompt(
    format_: WhisperFormat,
    sequence: list[int],
    previous: Sequence[int] = (),
    hotwords: Sequence[int] = (),
    prefix: Sequence[int] = (),
    keep_prefix: bool = False,
) -> WindowPrompt:
    """`sequence`: start token, language, task. As openai/whisper builds prompts; hotwords as
    faster-whisper has them: before the earlier text, and not beside a prefix.

    What stands before the start token takes less than half of the decoder's positions: of hotwords
    the first tokens stay, of earlier text the last ones. `keep_prefix`: the prefix is part of the
    text, and begins at 0.00 where that has timestamps.
    """
    room = format_.positions // 2 - 1
    hotwords = [] if prefix else list(hotwords)[:room]
    before = [*hotwords, *latest(previous, room - len(hotwords))]
    if before:
        assert format_.previous_id is not None
        before = [format_.previous_id, *before]
    begun = list(prefix)[:room]
    if keep_prefix and begun and format_.wants_timestamps(sequence):
        begun = [format_.first_timestamp_id, *begun]
    ids = [*before, *sequence, *begun]
    return WindowPrompt(ids, len(before), len(begun) if keep_prefix else 0)


def latest(token_ids: Sequence[int], count: int) -> list[int]:
    """The last `count` of them."""
    return list(token_ids[-count:]) if count > 0 else []
