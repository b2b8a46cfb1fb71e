"""PLBart (Ahmad et al. 2021): BART for programming languages; a decoder begins with a language."""

from antiphon.families.bart_like import bart_like

FAMILY = bart_like(
    "plbart",
    "PLBartForConditionalGeneration",
    pre_norm=False,
    embedding_norm=True,
    positions="learned",
    position_offset=2,
    language_tokens=(r"__(?P<code>[a-z]+|[a-z]{2}_[A-Z]{2})__",),  # __java__, __en_XX__
)
