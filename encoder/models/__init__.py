"""One file per structure; `build` makes the encoder that a half describes."""

from collections.abc import Callable
from typing import Any

from antiphon.encoder.models.bart import BartEncoder
from antiphon.encoder.models.florence2 import Florence2Encoder
from antiphon.encoder.models.interface import EncoderModel
from antiphon.encoder.models.mllama import MllamaVisionEncoder
from antiphon.encoder.models.moonshine import MoonshineEncoder
from antiphon.encoder.models.qwen_vision import QwenVisionEncoder
from antiphon.encoder.models.swin import SwinEncoder
from antiphon.encoder.models.t5 import T5Encoder
from antiphon.encoder.models.t5gemma import T5GemmaEncoder
from antiphon.encoder.models.vit import VisionTransformer
from antiphon.encoder.models.whisper import WhisperEncoder
from antiphon.families.halves import Half
from antiphon.layers.shard import Part

# By `Half.structure`; a class takes the half of its structure.
MODELS: dict[str, Callable[[Any, Part], EncoderModel]] = {
    "bart": BartEncoder,
    "florence2": Florence2Encoder,
    "mllama": MllamaVisionEncoder,
    "moonshine": MoonshineEncoder,
    "qwen_vision": QwenVisionEncoder,
    "swin": SwinEncoder,
    "t5": T5Encoder,
    "t5gemma": T5GemmaEncoder,
    "vit": VisionTransformer,
    "whisper": WhisperEncoder,
}


def build(half: Half, part: Part | None = None) -> EncoderModel:
    """`part` of the encoder, by default all of it."""
    return MODELS[half.structure](half, part or Part.whole(half.num_layers))
