"""LLaVA-OneVision (Li et al. 2024): a picture that is alone is cut into tiles, whose patches by
SigLIP stand line by line in the prompt of Qwen2; of several pictures, each is one tile. So is each
frame of a video, with a quarter of the patches."""

import re
from dataclasses import replace

from antiphon.config.arithmetic import ceil_div
from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config
from antiphon.families.image_halves import VitHalf
from antiphon.families.llava import in_tiles, llava_encoder
from antiphon.families.vision_language import vision_language


def _encoder(config: Config) -> VitHalf:
    half = llava_encoder(
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", **config}
    )
    rule = config.get("vision_aspect_ratio", "anyres_max_9")
    if (most := re.fullmatch(r"anyres_max_(\d+)", rule)) is None:
        raise UnsupportedModelError(f"vision_aspect_ratio={rule!r}: only anyres_max_N is supported")
    half = in_tiles(half, config, int(most[1]), alone=True)
    assert half.tiles is not None
    return replace(half, tiles=replace(half.tiles, frame_side=ceil_div(half.tiles.side, 2)))


FAMILY = vision_language("llava_onevision", "LlavaOnevisionForConditionalGeneration", _encoder)
