"""One file per structure; `build` makes the encoder that a half describes."""

from collections.abc import Callable
from typing import Any

from antiphon.encoder.models.bart import BartEncoder
from antiphon.encoder.models.interface import EncoderModel
from antiphon.encoder.models.t5 import T5Encoder
from antiphon.encoder.models.whisper import WhisperEncoder
from antiphon.families.halves import Half

# By `Half.structure`; a class takes the half of its structure.
MODELS: dict[str, Callable[[Any], EncoderModel]] = {
    "bart": BartEncoder,
    "t5": T5Encoder,
    "whisper": WhisperEncoder,
}


def build(half: Half) -> EncoderModel:
    return MODELS[half.structure](half)
