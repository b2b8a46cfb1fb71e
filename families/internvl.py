"""InternVL 3 and 3.5 (Wang et al. 2025) in the format of transformers: InternViT, whose patches are
merged two by two, in the prompt of Qwen2 or Qwen3."""

from typing import Any

from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, VitHalf
from antiphon.families.llava import used_layers
from antiphon.families.vision_language import vision_language

PROJECTOR = (
    "multi_modal_projector.layer_norm",
    "multi_modal_projector.linear_1",
    "multi_modal_projector.linear_2",
)
MOST_TILES = 13  # of an image: twelve, and a small one of the whole


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _encoder(config: Config) -> VitHalf:
    vision = config["vision_config"]
    heads, size = vision["num_attention_heads"], vision["hidden_size"]
    image_size, (patch_size, _) = _pair(vision["image_size"]), _pair(vision["patch_size"])
    merge = round(1 / config.get("downsample_ratio", 0.5))
    rows = (image_size[0] // patch_size // merge) * (image_size[1] // patch_size // merge)
    return VitHalf(
        hidden_size=size,
        num_layers=used_layers({"vision_feature_layer": -1, **config}, vision["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=vision["intermediate_size"],
        activation=vision["hidden_act"],
        max_positions=rows * MOST_TILES,
        patch_size=patch_size,
        norm="rms" if vision["norm_type"] == "rms_norm" else "layer",
        norm_eps=vision["layer_norm_eps"],
        naming="internvl",
        prefixes=("vision_tower.", "model.vision_tower."),
        projector=Projector(
            output_size=config["text_config"]["hidden_size"],
            activation=config.get("projector_hidden_act", "gelu"),
            stored=PROJECTOR,
            merge=merge,
            norm=True,
        ),
        image_size=image_size,
        class_tokens=1,
        positions=vision["use_absolute_position_embeddings"],
        qkv_bias=vision["attention_bias"],
        qk_norm=vision["use_qk_norm"],
        layer_scale=True,
        final_norm=not vision["use_mean_pooling"],
        class_rows=config.get("vision_feature_select_strategy", "default") == "full",
    )


FAMILY = vision_language("internvl", "InternVLForConditionalGeneration", _encoder)
