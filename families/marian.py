"""Marian (Junczys-Dowmunt et al. 2018), the models of OPUS-MT."""

from antiphon.families.bart_like import bart_like

FAMILY = bart_like(
    "marian",
    "MarianMTModel",
    pre_norm=False,
    embedding_norm=False,
    positions="sinusoidal",
    language_tokens=(r">>(?P<code>[\w-]+)<<",),
    marks_target_in_source=True,
)
