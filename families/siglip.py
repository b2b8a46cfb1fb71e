"""SigLIP (Zhai et al. 2023): of its two encoders, that of images."""

from antiphon.families.family import Config
from antiphon.families.image_halves import VitHalf
from antiphon.families.vit_like import encoder_alone, siglip


def _describe(config: Config) -> VitHalf:
    return siglip(config["vision_config"])


FAMILY = encoder_alone("siglip", "SiglipModel", describe=_describe)
