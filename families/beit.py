"""BEiT (Bao et al. 2021), and DiT (Li et al. 2022), which reads documents."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("beit", "BeitModel")
