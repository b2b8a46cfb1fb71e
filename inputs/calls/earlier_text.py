"""What the model is told before a window: earlier text, names to expect, the text's beginning."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import PromptError, about
from antiphon.config.foreign import shown
from antiphon.inputs.calls.numbers import checked_flag, checked_number
from antiphon.inputs.whisper.format import WhisperFormat

MOST_CHARACTERS = 1 << 16  # far more than Whisper's 223 tokens before a window can hold


@dataclass(frozen=True)
class EarlierText:
    """Token ids, and which of them each window gets.

    initial: of the prompt; of windows one after another the first one's, and part of what was said
        before the next ones. hotwords: each window's. prefix: begins the first window's text.
    carried: each window gets `initial`. continued: each window gets the text of those before it,
        but for text that came at a temperature above `reset_temperature`.
    """

    initial: tuple[int, ...] = ()
    hotwords: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    carried: bool = False
    continued: bool = False
    reset_temperature: float = 0.5
    keeps_prefix: bool = False  # as part of the text


def checked_earlier_text(keywords: Any, whisper: WhisperFormat, in_turn: bool) -> EarlierText:
    """Of the keywords of transcribe(). `in_turn`: whether windows come one after another. Raises
    PromptError."""
    continued = in_turn
    if keywords.condition_on_previous_text is not None:
        continued = checked_flag("condition_on_previous_text", keywords.condition_on_previous_text)
    if continued and not in_turn:
        raise PromptError(
            "condition_on_previous_text=True needs mode='sequential': in batches, windows are "
            "decoded independently of each other"
        )
    earlier = EarlierText(
        _ids("initial_prompt", keywords.initial_prompt, whisper),
        _ids("hotwords", keywords.hotwords, whisper),
        _ids("prefix", keywords.prefix, whisper),
        checked_flag("carry_initial_prompt", keywords.carry_initial_prompt),
        continued,
        checked_number("prompt_reset_on_temperature", keywords.prompt_reset_on_temperature),
        checked_flag("keep_prefix", keywords.keep_prefix),
    )
    if whisper.previous_id is None and (earlier.initial or earlier.hotwords or continued):
        raise _no_earlier_text(earlier)
    return earlier


def _no_earlier_text(earlier: EarlierText) -> PromptError:
    advice = {
        "initial_prompt": "leave out initial_prompt" if earlier.initial else "",
        "hotwords": "leave out hotwords" if earlier.hotwords else "",
        "condition_on_previous_text": "give condition_on_previous_text=False"
        if earlier.continued
        else "",
    }
    named = {name: remedy for name, remedy in advice.items() if remedy}
    return PromptError(
        "this checkpoint's tokenizer has no <|startofprev|>: it takes no text before a window. "
        f"To transcribe, {' and '.join(named.values())}",
        parameter=next(iter(named)),
    )


def _ids(name: str, value: Any, whisper: WhisperFormat) -> tuple[int, ...]:
    """The tokens of a text, or those that are given. Raises PromptError."""
    if value is None:
        return ()
    with about(name):
        return _checked_ids(name, value, whisper)


def _checked_ids(name: str, value: Any, whisper: WhisperFormat) -> tuple[int, ...]:
    if isinstance(value, str):
        ids = whisper.text_ids(_counted(name, value))
        if any(not whisper.is_text(id_) for id_ in ids):
            raise PromptError(f"{name} holds special tokens: give plain text, or token ids")
        return tuple(ids)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, bytearray)):
        raise PromptError(f"{name} must be a text or a list of token ids, not {shown(value)}")
    return tuple(whisper.checked_ids(name, value))


def _counted(name: str, text: str) -> str:
    """What of a long text may reach a prompt: of earlier text the end, else the beginning. The rest
    is not worth tokenizing."""
    return text[-MOST_CHARACTERS:] if name == "initial_prompt" else text[:MOST_CHARACTERS]
