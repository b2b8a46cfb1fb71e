"""ViT (Dosovitskiy et al. 2021)."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("vit", "ViTModel")
