"""The forms a prompt may have, and one plain form they are all brought into."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from antiphon.config.errors import PromptError, nearest
from antiphon.config.foreign import shown

Prompt = str | Mapping[str, Any]
LANGUAGES = ["source_language", "target_language"]
KEYS = [
    "prompt",
    "prompt_token_ids",
    "multi_modal_data",
    "encoder_prompt",
    "decoder_prompt",
    *LANGUAGES,
]


@dataclass(frozen=True)
class Part:
    """Text, token ids or media of one half; at most one of text and ids."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    audio: Any = None

    @property
    def has_tokens(self) -> bool:
        return self.text is not None or self.token_ids is not None


@dataclass(frozen=True)
class ParsedPrompt:
    encoder: Part
    decoder: Part
    source_language: Any = None  # of translation models, as the caller names them
    target_language: Any = None


def parse(prompt: Prompt, encoder_input: str) -> ParsedPrompt:
    """Brings a prompt into one form. `encoder_input` ('text' or 'audio') says which half a single text belongs to.

    Raises PromptError for an unknown form or key.
    """
    if isinstance(prompt, Mapping) and any(name in prompt for name in LANGUAGES):
        rest = {key: value for key, value in prompt.items() if key not in LANGUAGES}
        return with_languages(parse(rest, encoder_input), *(prompt.get(name) for name in LANGUAGES))
    if isinstance(prompt, Mapping) and ("encoder_prompt" in prompt or "decoder_prompt" in prompt):
        _known(prompt, ["encoder_prompt", "decoder_prompt"])
        if prompt.get("encoder_prompt") is None:
            raise PromptError("a prompt with 'decoder_prompt' needs an 'encoder_prompt'")
        return ParsedPrompt(
            _part(prompt["encoder_prompt"]), _decoder_part(prompt.get("decoder_prompt"))
        )
    part = _part(prompt)
    if encoder_input == "text":
        return ParsedPrompt(part, Part())
    return ParsedPrompt(Part(audio=part.audio), Part(part.text, part.token_ids))


def sound_of(prompt: Any) -> Any:
    """The sound in a prompt, as it is given; None where there is none, or the prompt has a wrong form.
    Nothing else is read, for what can be read once only is `parse`'s."""
    for key in ("encoder_prompt", "multi_modal_data", "audio"):
        if not isinstance(prompt, Mapping):
            return None
        prompt = prompt.get(key, prompt if key == "encoder_prompt" else None)
    return prompt


def with_languages(parsed: ParsedPrompt, source: Any, target: Any) -> ParsedPrompt:
    """With these languages where the prompt itself names none."""
    if source is None and target is None:
        return parsed
    return replace(
        parsed,
        source_language=source if parsed.source_language is None else parsed.source_language,
        target_language=target if parsed.target_language is None else parsed.target_language,
    )


def _part(prompt: Any) -> Part:
    if isinstance(prompt, str):
        return Part(text=_unicode(prompt))
    if not isinstance(prompt, Mapping):
        raise PromptError(
            f"a prompt must be a str or a mapping with {', '.join(KEYS)}; not {type(prompt).__name__}"
        )
    _known(prompt, ["prompt", "prompt_token_ids", "multi_modal_data"])
    text, ids, media = (
        prompt.get("prompt"),
        prompt.get("prompt_token_ids"),
        prompt.get("multi_modal_data") or {},
    )
    if text is not None and not isinstance(text, str):
        raise PromptError(f"'prompt' must be a str, not {type(text).__name__}")
    if text is not None and ids is not None:
        raise PromptError("give 'prompt' or 'prompt_token_ids', not both")
    if not isinstance(media, Mapping):
        raise PromptError(f"'multi_modal_data' must be a mapping, not {type(media).__name__}")
    _known(media, ["audio"])
    return Part(
        None if text is None else _unicode(text),
        None if ids is None else token_ids(ids),
        media.get("audio"),
    )


def _unicode(text: str) -> str:
    """`text` itself. Raises PromptError for half of a surrogate pair, which Python's strings can
    hold but tokenizers cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start} of the text is {text[error.start]!r}, half of a surrogate "
            f"pair and no character: {_origin(ord(text[error.start]))}"
        ) from None
    return text


def _origin(code: int) -> str:
    """Where a lone surrogate usually comes from."""
    if 0xDC80 <= code <= 0xDCFF:  # how Python's surrogateescape stands for a byte
        return f"it stands for the byte 0x{code - 0xDC00:02X}, which is not UTF-8 text"
    return "the text was cut inside a character, or decoded from broken UTF-16 or JSON"


def _decoder_part(prompt: Any) -> Part:
    if prompt is None:
        return Part()
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        return Part(token_ids=token_ids(prompt))
    part = _part(prompt)
    if part.audio is not None:
        raise PromptError(
            "a decoder prompt takes text or token ids; media belong to 'encoder_prompt'"
        )
    return part


def token_ids(ids: Any) -> tuple[int, ...]:
    """Of any integer type, numpy's and tensors' among them. Raises PromptError for anything else: 1.7 is no id, nor is '12'."""
    try:
        if isinstance(ids, (str, bytes, bytearray, Mapping)):
            raise TypeError
        return tuple(_token_id(each) for each in ids)
    except (TypeError, ValueError):
        raise PromptError(
            f"token ids must be a sequence of whole numbers, not {shown(ids)}"
        ) from None


def _token_id(id_: Any) -> int:
    if type(id_).__name__ in ("bool", "bool_"):
        raise TypeError
    return operator.index(id_)


def _known(mapping: Mapping[str, Any], valid: list[str]) -> None:
    for key in mapping:
        if key not in valid:
            raise PromptError(
                f"unknown key '{key}' in a prompt.{nearest(str(key), [*valid, *LANGUAGES])}"
            )
