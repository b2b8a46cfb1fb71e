"""One file per structure; `build` makes the encoder half that a checkpoint's description names."""

from antiphon.encoder.models.bart import BartEncoder
from antiphon.encoder.models.interface import EncoderModel
from antiphon.encoder.models.t5 import T5Encoder
from antiphon.encoder.models.whisper import WhisperEncoder
from antiphon.families.halves import BartHalf, Half


def build(half: Half) -> EncoderModel:
    if isinstance(half, BartHalf):
        return WhisperEncoder(half) if half.structure == "whisper" else BartEncoder(half)
    return T5Encoder(half)
