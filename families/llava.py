"""LLaVA (Liu et al. 2023): the patches of CLIP or SigLIP, projected, in the prompt of Llama or
Qwen2."""

from dataclasses import replace
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, VitHalf
from antiphon.families.vision_language import vision_language
from antiphon.families.vit_like import vision_half

TOWERS = tuple(
    f"{model}vision_tower.{inner}" for model in ("", "model.") for inner in ("vision_model.", "")
)
PROJECTOR = ("", "multi_modal_projector.linear_1", "multi_modal_projector.linear_2")
IGNORED = {
    r"(model\.)?vision_tower\..*layers\.\d+\..*": "layers behind the one that the decoder gets",
    r"(model\.)?vision_tower\.(.*\.)?(post_layernorm|head)\..*": "behind that layer too",
}


def _encoder(config: Config) -> VitHalf:
    half = vision_half(config["vision_config"])
    if not isinstance(half, VitHalf):
        raise UnsupportedModelError(f"{half.naming} is no encoder of LLaVA")
    keeps_all = config.get("vision_feature_select_strategy", "default") == "full"
    if keeps_all != (half.class_tokens == 0):
        raise UnsupportedModelError(
            "vision_feature_select_strategy: 'default' is supported for encoders with a class "
            "token (CLIP), 'full' for those without (SigLIP)"
        )
    return replace(
        half,
        num_layers=used_layers(config.get("vision_feature_layer", -2), half.num_layers),
        prefixes=TOWERS,
        final_norm=False,
        class_rows=False,
        pooling=None,
        projector=Projector(
            output_size=config["text_config"]["hidden_size"],
            activation=config.get("projector_hidden_act", "gelu"),
            stored=PROJECTOR,
            bias=config.get("multimodal_projector_bias", True),
        ),
    )


def used_layers(layer: Any, num_layers: int) -> int:
    """Layers of an encoder up to number `layer`, whose output the decoder gets.

    Raises UnsupportedModelError for several such layers.
    """
    if not isinstance(layer, int):
        raise UnsupportedModelError(f"vision_feature_layer={layer}: one layer is supported")
    return num_layers + 1 + layer if layer < 0 else layer


FAMILY = vision_language("llava", "LlavaForConditionalGeneration", _encoder, IGNORED)
