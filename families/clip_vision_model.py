"""CLIP's vision encoder (Radford et al. 2021), saved alone."""

from dataclasses import replace

from antiphon.families.family import Config
from antiphon.families.image_halves import VitHalf
from antiphon.families.vit_like import clip, encoder_alone


def _describe(config: Config) -> VitHalf:
    half = clip(config)
    if "CLIPVisionModelWithProjection" in (config.get("architectures") or ()):
        return replace(half, pooled_size=config["projection_dim"])
    return half


FAMILY = encoder_alone(
    "clip_vision_model",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    describe=_describe,
)
