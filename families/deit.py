"""DeiT (Touvron et al. 2021): ViT with a second class token, for distillation."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("deit", "DeiTModel")
