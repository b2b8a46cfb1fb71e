"""The forms that a prompt may have, and the one form that they are brought into."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from antiphon.config.errors import PromptError, nearest
from antiphon.config.foreign import shown

Prompt = str | Mapping[str, Any]
LANGUAGES = ["source_language", "target_language"]
SINGLE_KEYS = ["prompt", "prompt_token_ids", "multi_modal_data"]
PAIR_KEYS = ["encoder_prompt", "decoder_prompt"]
KEYS = [*SINGLE_KEYS, *PAIR_KEYS, *LANGUAGES, "messages"]


@dataclass(frozen=True)
class Part:
    """The prompt of one half: text or token ids, not both; for an encoder also audio, or images and
    videos in the order of their places in the decoder's prompt."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    audio: Any = None
    images: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()

    @property
    def media(self) -> str:
        """What it holds beside text; empty for nothing."""
        if self.audio is not None:
            return "audio"
        return "images" if self.images else "videos" if self.videos else ""

    @property
    def has_tokens(self) -> bool:
        return self.text is not None or self.token_ids is not None


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt of any form. Languages are the caller's spelling, for translation models."""

    encoder: Part
    decoder: Part
    source_language: Any = None
    target_language: Any = None

    @property
    def named_languages(self) -> list[str]:
        return [name for name in LANGUAGES if getattr(self, name) is not None]


def parse(prompt: Prompt, encoder_input: str | None) -> ParsedPrompt:
    """Brings a prompt into one form. `encoder_input` is what the encoder takes: a single text
    belongs to the encoder of a 'text' or 'image_text' model, and to the decoder of an 'audio' or
    'image' model and of one without an encoder (None).

    Raises PromptError for an unknown form or key.
    """
    if isinstance(prompt, Mapping) and any(name in prompt for name in LANGUAGES):
        rest = {key: value for key, value in prompt.items() if key not in LANGUAGES}
        return with_languages(parse(rest, encoder_input), *(prompt.get(name) for name in LANGUAGES))
    if isinstance(prompt, Mapping) and any(key in prompt for key in PAIR_KEYS):
        _check_keys(prompt, PAIR_KEYS)
        if encoder_input is None:
            raise PromptError("this model has no encoder: give 'prompt' or 'prompt_token_ids'")
        if prompt.get("encoder_prompt") is None:
            raise PromptError("a prompt with 'decoder_prompt' needs an 'encoder_prompt'")
        encoder = _part(prompt["encoder_prompt"])
        return ParsedPrompt(encoder, _decoder_part(prompt.get("decoder_prompt")))
    part = _part(prompt)
    if encoder_input in ("text", "image_text"):
        return ParsedPrompt(part, Part())
    media = Part(audio=part.audio, images=part.images, videos=part.videos)
    return ParsedPrompt(media, Part(part.text, part.token_ids))


def with_languages(parsed: ParsedPrompt, source: Any, target: Any) -> ParsedPrompt:
    """`parsed` with these languages where it names none itself."""
    if source is None and target is None:
        return parsed
    return replace(
        parsed,
        source_language=source if parsed.source_language is None else parsed.source_language,
        target_language=target if parsed.target_language is None else parsed.target_language,
    )


def token_ids(ids: Any) -> tuple[int, ...]:
    """Token ids of any integer type, numpy's and tensors' included.

    Raises PromptError for anything else: 1.7 is no id, nor is '12'.
    """
    try:
        if isinstance(ids, (str, bytes, bytearray, Mapping)):
            raise TypeError
        return tuple(_token_id(id_) for id_ in ids)
    except (TypeError, ValueError):
        raise PromptError(
            f"token ids must be a sequence of whole numbers, not {shown(ids)}"
        ) from None


def _token_id(id_: Any) -> int:
    if type(id_).__name__ in ("bool", "bool_"):
        raise TypeError
    return operator.index(id_)


def _part(prompt: Any) -> Part:
    if isinstance(prompt, str):
        return Part(text=unicode_text(prompt))
    if not isinstance(prompt, Mapping):
        raise PromptError(
            f"a prompt must be a str or a mapping with {', '.join(KEYS)}; "
            f"not {type(prompt).__name__}"
        )
    _check_keys(prompt, SINGLE_KEYS)
    text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    media = prompt.get("multi_modal_data") or {}
    if text is not None and not isinstance(text, str):
        raise PromptError(f"'prompt' must be a str, not {type(text).__name__}")
    if text is not None and ids is not None:
        raise PromptError("give 'prompt' or 'prompt_token_ids', not both")
    if not isinstance(media, Mapping):
        raise PromptError(f"'multi_modal_data' must be a mapping, not {type(media).__name__}")
    _check_keys(media, ["audio", "image", "video"])
    return Part(
        None if text is None else unicode_text(text),
        None if ids is None else token_ids(ids),
        media.get("audio"),
        _several(media.get("image")),
        _several_videos(media.get("video")),
    )


def _several(image: Any) -> tuple[Any, ...]:
    """Images from one, a list of them, or None."""
    if isinstance(image, (list, tuple)):
        return tuple(image)
    return () if image is None else (image,)


def _several_videos(video: Any) -> tuple[Any, ...]:
    """Videos from one, a list of them, or None. A list of images is one video, as is a pair of
    frames and what is said of them."""
    if isinstance(video, tuple) and len(video) == 2 and isinstance(video[1], Mapping):
        return (video,)
    if isinstance(video, (list, tuple)) and video:
        is_image = hasattr(video[0], "getpixel") or getattr(video[0], "ndim", 0) == 3
        return (video,) if is_image else tuple(video)
    return _several(video)


def unicode_text(text: str) -> str:
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
    if part.media:
        raise PromptError(
            "a decoder prompt takes text or token ids; media belong to 'encoder_prompt'"
        )
    return part


def _check_keys(mapping: Mapping[str, Any], valid: list[str]) -> None:
    for key in mapping:
        if key not in valid:
            suggestion = nearest(str(key), [*valid, *LANGUAGES])
            raise PromptError(f"unknown key '{key}' in a prompt.{suggestion}")
