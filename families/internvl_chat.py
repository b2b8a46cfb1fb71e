"""InternVL 2.5, 3 and 3.5 in the format of their authors (InternVLChatModel): the same model as in
that of transformers, by other names."""

from dataclasses import replace
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, VitHalf
from antiphon.families.internvl import internvl_encoder
from antiphon.families.vision_language import TEXT_MODELS, vision_language

SHUFFLE = "v2"  # how patches are merged; the order of "v1" is an older model's
IMAGE_TOKEN = "<IMG_CONTEXT>"
RENAMED = {"qk_normalization": "use_qk_norm", "qkv_bias": "attention_bias"}


def translate(config: Config) -> Config:
    """As transformers' InternVLConfig has it. Beside it stand the name of the image token, which
    this format leaves to the tokenizer, and how images are cut."""
    text, vision = config["llm_config"], config["vision_config"]
    if text["model_type"] not in TEXT_MODELS:
        raise UnsupportedModelError(
            f"llm_config has model_type {text['model_type']!r}; supported: {', '.join(TEXT_MODELS)}"
        )
    if (shuffle := config.get("ps_version", SHUFFLE)) != SHUFFLE:
        raise UnsupportedModelError(f"ps_version={shuffle!r}: only {SHUFFLE!r} is supported")
    size = config.get("force_image_size") or vision["image_size"]
    side = vision["patch_size"]
    kept = {RENAMED.get(name, name): value for name, value in vision.items()}
    translated: dict[str, Any] = {
        "architectures": config["architectures"],
        "model_type": "internvl",
        "dtype": config.get("dtype", config.get("torch_dtype")),
        "downsample_ratio": config.get("downsample_ratio", 0.5),
        "vision_feature_layer": config.get("select_layer", -1),
        "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
        "text_config": text,
        "vision_config": {
            **kept,
            "model_type": "internvl_vision",
            "image_size": [size, size],
            "patch_size": [side, side],
            "use_mean_pooling": True,  # there is no norm behind the last layer
        },
        "image_token": IMAGE_TOKEN,
        "tiles": {
            "size": {"height": size, "width": size},
            "min_patches": config.get("min_dynamic_patch", 1),
            "max_patches": config.get("max_dynamic_patch", 12)
            if config.get("dynamic_image_size", True)
            else 1,
        },
    }
    return {name: value for name, value in translated.items() if value is not None}


def _encoder(config: Config) -> VitHalf:
    half = internvl_encoder(config)
    assert isinstance(half.projector, Projector)
    projector = replace(half.projector, stored=("mlp1.0", "mlp1.1", "mlp1.3"), prefixes=("",))
    return replace(
        half,
        naming="internvl_chat",
        packed_qkv=True,
        prefixes=("vision_model.",),
        projector=projector,
    )


FAMILY = replace(
    vision_language("internvl_chat", "InternVLChatModel", _encoder),
    encoder_names=r"(vision_model|mlp1)\..*",
    translate=translate,
    translated_name="internvl",
)
