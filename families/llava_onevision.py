"""LLaVA-OneVision (Li et al. 2024): a picture that is alone is cut into tiles, whose patches by
SigLIP stand line by line in the prompt of Qwen2; of several pictures, each is one tile."""

import re
from dataclasses import replace

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.any_resolution import AnyResolution
from antiphon.families.family import Config
from antiphon.families.image_halves import VitHalf
from antiphon.families.llava import llava_encoder
from antiphon.families.vision_language import vision_language


def _encoder(config: Config) -> VitHalf:
    half = llava_encoder(
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", **config}
    )
    if half.class_tokens and half.class_rows:
        raise UnsupportedModelError(
            "vision_feature_select_strategy='full': a class token is no patch"
        )
    tile, width = half.image_size
    if tile != width:
        raise UnsupportedModelError(f"tiles of {tile} x {width} pixels: only square ones")
    rule = config.get("vision_aspect_ratio", "anyres_max_9")
    if (most := re.fullmatch(r"anyres_max_(\d+)", rule)) is None:
        raise UnsupportedModelError(f"vision_aspect_ratio={rule!r}: only anyres_max_N is supported")
    tiles = AnyResolution(
        resolutions=tuple((height, width) for height, width in config["image_grid_pinpoints"]),
        tile=tile,
        side=tile // half.patch_size,
        most_tiles=int(most[1]),
    )
    return replace(half, tiles=tiles, max_positions=tiles.most_rows)


FAMILY = vision_language("llava_onevision", "LlavaOnevisionForConditionalGeneration", _encoder)
