"""M2M-100 (Fan et al. 2020) and NLLB (NLLB Team 2022)."""

from antiphon.families.bart_like import bart_like

FAMILY = bart_like(
    "m2m_100",
    "M2M100ForConditionalGeneration",
    pre_norm=True,
    embedding_norm=False,
    positions="fairseq",
    language_tokens=(
        r"(?P<code>[a-z]{3}_[A-Z][a-z]{3})",  # NLLB
        r"__(?P<code>[a-z]{2,3})__",  # M2M-100
    ),
)
