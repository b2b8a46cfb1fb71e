"""mT5 (Xue et al. 2020)."""

from antiphon.families.t5_like import t5_like

FAMILY = t5_like("mt5", "MT5ForConditionalGeneration", scales_tied_head=False)
