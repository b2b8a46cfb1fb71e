"""BART (Lewis et al. 2019)."""

from antiphon.families.bart_like import bart_like

FAMILY = bart_like(
    "bart",
    "BartForConditionalGeneration",
    "BartModel",  # facebook/bart-large names this one
    pre_norm=False,
    embedding_norm=True,
    positions="learned",
    position_offset=2,
)
