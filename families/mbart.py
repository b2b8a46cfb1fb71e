"""mBART (Liu et al. 2020) and mBART-50: BART with a LayerNorm before each sublayer."""

from antiphon.families.bart_like import bart_like

FAMILY = bart_like(
    "mbart",
    "MBartForConditionalGeneration",
    pre_norm=True,
    embedding_norm=True,
    positions="learned",
    position_offset=2,
    language_tokens=(r"(?P<code>[a-z]{2}_[A-Z]{2})",),
)
