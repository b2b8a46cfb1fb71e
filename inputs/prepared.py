"""What input processing hands to the engine: the encoder's input and the decoder's prompt."""

from dataclasses import dataclass
from typing import Any

from antiphon.config.sampling import SamplingParams


@dataclass(frozen=True)
class EncoderInput:
    """The input of one encoder run.

    `key`: names the content; equal content has equal keys. `kind`: 'text' or 'audio'.
    `num_tokens`: length of the encoder's output. `payload`: int32 token ids [n] or float32 samples
    [n], or an object that stands for them.
    """

    key: str
    kind: str
    num_tokens: int
    payload: Any


@dataclass(frozen=True)
class Prepared:
    """A request's parts, checked. `prompt_token_ids` is None while the language of the audio is
    still to be detected."""

    media: EncoderInput
    prompt_token_ids: list[int] | None
    params: SamplingParams
