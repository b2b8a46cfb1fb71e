"""InternViT (Chen et al. 2023), the vision encoder of InternVL, saved alone."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("internvl_vision", "InternVLVisionModel")
