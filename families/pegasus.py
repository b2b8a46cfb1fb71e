"""Pegasus (Zhang et al. 2019)."""

from antiphon.families.bart_like import bart_like
from antiphon.families.family import BFLOAT16_TRAINED

FAMILY = bart_like(
    "pegasus",
    "PegasusForConditionalGeneration",
    pre_norm=True,
    embedding_norm=False,
    positions="sinusoidal",
    too_narrow=BFLOAT16_TRAINED,
)
