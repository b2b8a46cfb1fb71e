"""LLaVA (Liu et al. 2023): the patches of CLIP or SigLIP, projected, in the prompt of Llama or
Qwen2."""

from dataclasses import replace
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, VitHalf
from antiphon.families.vision_language import vision_language
from antiphon.families.vit_like import clip, siglip

TOWERS = tuple(
    f"{model}vision_tower.{inner}" for model in ("", "model.") for inner in ("vision_model.", "")
)
PROJECTOR = ("", "multi_modal_projector.linear_1", "multi_modal_projector.linear_2")
DESCRIBED = {"clip_vision_model": clip, "siglip_vision_model": siglip}  # by model_type


def llava_encoder(config: Config) -> VitHalf:
    """CLIP has a class token, which is left out by default, and a norm behind its positions."""
    vision = config["vision_config"]
    model_type = vision.get("model_type", "clip_vision_model")
    if model_type not in DESCRIBED:
        raise UnsupportedModelError(f"vision_config has model_type {model_type!r}")
    half = up_to_layer(DESCRIBED[model_type](vision), config.get("vision_feature_layer", -2))
    strategy = config.get("vision_feature_select_strategy", "default")
    if not half.class_tokens and strategy != "full":
        raise UnsupportedModelError(
            f"vision_feature_select_strategy={strategy!r} drops a patch: SigLIP has no class token"
        )
    return replace(
        half,
        final_norm=False,  # also behind the last layer
        prefixes=TOWERS,
        projector=Projector(
            output_size=config["text_config"]["hidden_size"],
            activation=config.get("projector_hidden_act", "gelu"),
            stored=PROJECTOR,
            bias=config.get("multimodal_projector_bias", True),
        ),
        class_rows=strategy == "full",
    )


def up_to_layer(half: VitHalf, layer: Any) -> VitHalf:
    """`half` without the layers behind number `layer`, whose output the decoder gets; -1 is the
    last one, with the norm behind it.

    Raises UnsupportedModelError for several such layers.
    """
    if not isinstance(layer, int):
        raise UnsupportedModelError(f"vision_feature_layer={layer}: one layer is supported")
    half = replace(half, pooling=None)
    if layer == -1:
        return half
    layers = half.num_layers + 1 + layer if layer < 0 else layer
    return replace(half, num_layers=layers, stored_layers=half.num_layers, final_norm=False)


FAMILY = vision_language("llava", "LlavaForConditionalGeneration", llava_encoder)
