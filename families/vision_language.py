"""Families of models that read images in the prompts of a decoder of Llama's structure."""

from collections.abc import Callable

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config, Family
from antiphon.families.halves import Half, LlamaHalf
from antiphon.families.image_halves import ImageHalf
from antiphon.families.llama_like import llama_half
from antiphon.families.tensor_names import LLAMA_IGNORED, Side
from antiphon.families.vit_like import VISION_IGNORED

ENCODER_NAMES = r"(model\.)?(vision_tower|multi_modal_projector|visual|image_newline)\b.*"
TOWER_IGNORED = {
    r"(.*\.)?vision_tower\.(vision_model\.)?head\..*": "the decoder reads no pooled embedding",
    r"(.*\.)?vision_tower\.(vision_model\.)?post_layernorm\..*": (
        "where an earlier layer's states are read, the norm behind the last one is not"
    ),
}

# By the decoder's model_type: biases of queries, keys and values, and norms of heads; see
# `llama_like`.
TEXT_MODELS: dict[str, tuple[bool | None, bool]] = {
    "llama": (None, False),
    "mistral": (None, False),
    "qwen2": (True, False),
    "qwen3": (None, True),
    "qwen2_vl_text": (True, False),
    "qwen2_5_vl_text": (True, False),
}


def vision_language(name: str, architecture: str, encoder: Callable[[Config], ImageHalf]) -> Family:
    """`encoder`: describes that half of config.json, its projector included."""

    def describe(config: Config, side: Side) -> Half:
        return encoder(config) if side == "encoder" else text_half(config)

    return Family(
        name=name,
        architectures=(architecture,),
        input="image",
        encoder_names=ENCODER_NAMES,
        describe=describe,
        ignored={**LLAMA_IGNORED, **VISION_IGNORED, **TOWER_IGNORED},
    )


def text_half(config: Config) -> LlamaHalf:
    """The decoder that `text_config` describes.

    Raises UnsupportedModelError for one of another structure.
    """
    text = config["text_config"]
    model_type = text.get("model_type", "llama")
    if model_type not in TEXT_MODELS:
        raise UnsupportedModelError(
            f"text_config has model_type {model_type!r}; supported: {', '.join(TEXT_MODELS)}"
        )
    if model_type == "mistral" and text.get("sliding_window"):
        raise UnsupportedModelError(
            f"sliding_window={text['sliding_window']}: attention to the latest tokens alone is not "
            "supported"
        )
    return llama_half(text, *TEXT_MODELS[model_type])
