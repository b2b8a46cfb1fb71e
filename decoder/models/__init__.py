"""One file per structure; `build` makes the decoder that a half describes."""

from collections.abc import Callable
from typing import Any

from antiphon.decoder.models.bart import BartDecoder
from antiphon.decoder.models.interface import DecoderModel
from antiphon.decoder.models.llama import LlamaDecoder
from antiphon.decoder.models.mllama import MllamaDecoder
from antiphon.decoder.models.moonshine import MoonshineDecoder
from antiphon.decoder.models.t5 import T5Decoder
from antiphon.decoder.models.t5gemma import T5GemmaDecoder
from antiphon.families.halves import Half, HeadTensors
from antiphon.layers.shard import Part

# By `Half.structure`; a class takes the half of its structure.
MODELS: dict[str, Callable[[Any, HeadTensors, Part], DecoderModel]] = {
    "bart": BartDecoder,
    "llama": LlamaDecoder,
    "mllama": MllamaDecoder,
    "moonshine": MoonshineDecoder,
    "t5": T5Decoder,
    "t5gemma": T5GemmaDecoder,
}


def build(half: Half, head: HeadTensors, part: Part | None = None) -> DecoderModel:
    """`part` of the decoder, by default all of it."""
    return MODELS[half.structure](half, head, part or Part.whole(half.num_layers))
