"""Which tokens a caller bars, with openai-whisper's names."""

from collections.abc import Iterable
from typing import Any

from antiphon.config.decoding_rules import RuleChanges
from antiphon.config.errors import PromptError
from antiphon.config.foreign import shown
from antiphon.inputs.calls.numbers import checked_flag, checked_number, is_real
from antiphon.inputs.whisper.format import WhisperFormat
from antiphon.inputs.whisper.tokens import SECONDS_PER_TICK

OWN = -1  # stands for the checkpoint's own set


def checked_rules(keywords: Any, whisper: WhisperFormat) -> RuleChanges:
    """Of the keywords of transcribe(). Raises PromptError."""
    suppress_blank = checked_flag("suppress_blank", keywords.suppress_blank)
    max_initial = None
    if keywords.max_initial_timestamp is not None:
        seconds = checked_number("max_initial_timestamp", keywords.max_initial_timestamp, 0.0)
        max_initial = min(round(seconds / SECONDS_PER_TICK), len(whisper.times))
    return RuleChanges(
        suppress=_suppressed(keywords.suppress_tokens, whisper),
        begin_suppress=None if suppress_blank else (),
        max_initial=max_initial,
    )


def _suppressed(value: Any, whisper: WhisperFormat) -> tuple[int, ...] | None:
    """None leaves the checkpoint's own. Otherwise as in openai-whisper: what is listed, where -1
    stands for the checkpoint's own, and special tokens that no text may hold."""
    if value is None:
        return None
    ids = _listed(value)
    if OWN in ids:
        own = whisper.suppressed or whisper.non_speech_ids
        ids = [*(id_ for id_ in ids if id_ != OWN), *own]
    ids = whisper.checked_ids("suppress_tokens", ids)
    return tuple(sorted({*ids, *whisper.never_text}))


def _listed(value: Any) -> list[Any]:
    """Ids from a list, one number, or a text with commas as openai-whisper's command takes it."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
        if all(part.lstrip("-").isdecimal() for part in value):
            return [int(part) for part in value]
    elif is_real(value):
        return [value]
    elif isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        return list(value)
    raise PromptError(
        f"suppress_tokens must be token ids, -1 for the checkpoint's own, not {shown(value)}"
    )
