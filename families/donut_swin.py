"""Donut's encoder (Kim et al. 2022): Swin without a norm at its end."""

from antiphon.families.vit_like import encoder_alone

FAMILY = encoder_alone("donut-swin", "DonutSwinModel")
