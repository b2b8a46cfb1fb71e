"""SigLIP's vision encoder (Zhai et al. 2023), saved alone."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("siglip_vision_model", "SiglipVisionModel")
