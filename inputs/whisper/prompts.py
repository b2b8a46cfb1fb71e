"""A window's decoder prompt: earlier text, the start sequence, and how its text begins."""

from collections.abc import Sequence
from typing import NamedTuple

from antiphon.inputs.whisper.format import WhisperFormat


class WindowPrompt(NamedTuple):
    token_ids: list[int]
    start: int  # the index of the start token


def window_prompt(
    format_: WhisperFormat,
    sequence: list[int],
    previous: Sequence[int] = (),
    hotwords: Sequence[int] = (),
    prefix: Sequence[int] = (),
) -> WindowPrompt:
    """`sequence`: start token, language, task. As openai/whisper builds prompts; hotwords as
    faster-whisper has them: before the earlier text, and not beside a prefix.

    What stands before the start token takes less than half of the decoder's positions: of hotwords
    the first tokens stay, of earlier text the last ones.
    """
    room = format_.positions // 2 - 1
    hotwords = [] if prefix else list(hotwords)[:room]
    before = [*hotwords, *latest(previous, room - len(hotwords))]
    if before:
        assert format_.previous_id is not None
        before = [format_.previous_id, *before]
    return WindowPrompt([*before, *sequence, *list(prefix)[:room]], len(before))


def latest(token_ids: Sequence[int], count: int) -> list[int]:
    """The last `count` of them."""
    return list(token_ids[-count:]) if count > 0 else []
