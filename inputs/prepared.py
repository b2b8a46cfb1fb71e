"""What input processing hands to the engine: the encoder's input and the decoder's prompt."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from antiphon.config.sampling import SamplingParams


@dataclass(frozen=True)
class EncoderInput:
    """The input of one encoder run.

    `key`: names the content; equal content has equal keys. `num_tokens`: length of the encoder's
    output. `payload`: int32 token ids [n], float32 samples [n] or packed `Pixels`, or an object
    that stands for them. `position`: of the first token of the decoder prompt that the hidden
    states replace; None: the decoder attends to them. `grid`, `token`,
    `shown`, `keep`: as in `Media`.
    """

    key: str
    kind: Literal["text", "audio", "image"]
    num_tokens: int
    payload: Any
    position: int | None = None
    grid: tuple[int, int, int, float] | None = None
    token: int | None = None
    shown: int = 0
    keep: bool = True

    @property
    def nbytes(self) -> int:
        """Of audio or an image; text counts as none."""
        return 0 if self.kind == "text" else int(self.payload.nbytes)


@dataclass(frozen=True)
class Prepared:
    """A request's parts, checked. `inputs` is empty for a model without an encoder.
    `prompt_token_ids` is None while the language of the audio is still to be detected. `held`:
    somebody else holds its memory against the engine's budget."""

    inputs: tuple[EncoderInput, ...]
    prompt_token_ids: list[int] | None
    params: SamplingParams
    held: bool = False

    @property
    def nbytes(self) -> int:
        """Of its audio or images; text counts as none."""
        return sum([media.nbytes for media in self.inputs])

    @property
    def media(self) -> EncoderInput:
        """The input of a model that reads one."""
        (media,) = self.inputs
        return media


def text_of(inputs: Iterable[EncoderInput]) -> np.ndarray | None:
    """The token ids [n] of the text among `inputs`; None where there is none."""
    texts = [media.payload for media in inputs if media.kind == "text"]
    return texts[0] if texts and isinstance(texts[0], np.ndarray) else None


class OfPrompt(Protocol):
    """An input of a prompt, on its way to the engine or in a request."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def position(self) -> int | None: ...


def tokens_beside_prompt(inputs: Iterable[OfPrompt]) -> int:
    """Of what the decoder attends to: images in a prompt stand there already, as placeholders."""
    return sum(media.num_tokens for media in inputs if media.position is None)
