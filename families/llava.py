"""LLaVA (Liu et al. 2023): the patches of CLIP or SigLIP, projected, in the prompt of Llama or
Qwen2."""

from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, VitHalf
from antiphon.families.vision_language import vision_language

TOWERS = tuple(
    f"{model}vision_tower.{inner}" for model in ("", "model.") for inner in ("vision_model.", "")
)
PROJECTOR = ("", "multi_modal_projector.linear_1", "multi_modal_projector.linear_2")


def llava_encoder(config: Config) -> VitHalf:
    """CLIP has a class token, which is left out by default, and a norm behind its positions."""
    vision = config["vision_config"]
    model_type = vision.get("model_type", "clip_vision_model")
    if model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise UnsupportedModelError(f"vision_config has model_type {model_type!r}")
    is_clip = model_type == "clip_vision_model"
    strategy = config.get("vision_feature_select_strategy", "default")
    heads, size = vision["num_attention_heads"], vision["hidden_size"]
    side = vision["image_size"]
    patches = (side // vision["patch_size"]) ** 2
    if not is_clip and strategy != "full":
        raise UnsupportedModelError(
            f"vision_feature_select_strategy={strategy!r} drops a patch: SigLIP has no class token"
        )
    return VitHalf(
        hidden_size=size,
        num_layers=used_layers(config, vision["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=vision["intermediate_size"],
        activation=vision["hidden_act"],
        max_positions=patches + 1,
        patch_size=vision["patch_size"],
        norm_eps=vision["layer_norm_eps"],
        naming="siglip",
        prefixes=TOWERS,
        projector=Projector(
            output_size=config["text_config"]["hidden_size"],
            activation=config.get("projector_hidden_act", "gelu"),
            stored=PROJECTOR,
            bias=config.get("multimodal_projector_bias", True),
        ),
        image_size=(side, side),
        class_tokens=int(is_clip),
        patch_bias=not is_clip,
        embedding_norm=is_clip,
        final_norm=False,
        class_rows=strategy == "full",
    )


def used_layers(config: Config, num_layers: int) -> int:
    """Layers of the encoder up to the one whose output the decoder gets.

    Raises UnsupportedModelError for several such layers.
    """
    layer: Any = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise UnsupportedModelError(f"vision_feature_layer={layer}: one layer is supported")
    return num_layers + 1 + layer if layer < 0 else layer


FAMILY = vision_language("llava", "LlavaForConditionalGeneration", llava_encoder)
