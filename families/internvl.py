"""InternVL 3 and 3.5 (Wang et al. 2025) in the format of transformers: InternViT, whose patches are
merged two by two, in the prompt of Qwen2 or Qwen3."""

from dataclasses import replace

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, VitHalf
from antiphon.families.llava import up_to_layer
from antiphon.families.vision_language import vision_language
from antiphon.families.vit_like import internvl

PROJECTOR = (
    "multi_modal_projector.layer_norm",
    "multi_modal_projector.linear_1",
    "multi_modal_projector.linear_2",
)
MOST_TILES = 13  # of an image: twelve, and a small one of the whole


def internvl_encoder(config: Config) -> VitHalf:
    """With the names of transformers' format."""
    if config.get("vision_feature_select_strategy", "default") != "default":
        raise UnsupportedModelError("vision_feature_select_strategy: a class token can't be merged")
    layer = config.get("vision_feature_layer", -1)
    if not isinstance(layer, int):
        raise UnsupportedModelError(f"vision_feature_layer={layer}: one layer is supported")
    merge = round(1 / config.get("downsample_ratio", 0.5))
    half = up_to_layer(internvl(config["vision_config"]), layer)
    rows, columns = half.trained_grid
    return replace(
        half,
        max_positions=(rows // merge) * (columns // merge) * MOST_TILES,
        prefixes=("vision_tower.", "model.vision_tower."),
        projector=Projector(
            output_size=config["text_config"]["hidden_size"],
            activation=config.get("projector_hidden_act", "gelu"),
            stored=PROJECTOR,
            merge=merge,
            norm=True,
        ),
        class_rows=False,
    )


FAMILY = vision_language("internvl", "InternVLForConditionalGeneration", internvl_encoder)
