"""Swin (Liu et al. 2021)."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("swin", "SwinModel")
