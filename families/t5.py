"""T5 (Raffel et al. 2020), T5 v1.1, Flan-T5 and ByT5."""

from antiphon.families.t5_like import t5_like

FAMILY = t5_like(
    "t5",
    "T5ForConditionalGeneration",
    "T5WithLMHeadModel",  # what old checkpoints call it
    scales_tied_head=True,
)
