"""CLIP (Radford et al. 2021): of its two encoders, that of images. Its embedding is what texts are
compared with."""

from dataclasses import replace

from antiphon.families.family import Config
from antiphon.families.image_halves import VitHalf
from antiphon.families.vit_like import clip, encoder_alone


def _describe(config: Config) -> VitHalf:
    return replace(clip(config["vision_config"]), pooled_size=config["projection_dim"])


FAMILY = encoder_alone("clip", "CLIPModel", describe=_describe)
