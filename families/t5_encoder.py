"""T5 (Raffel et al. 2020): its encoder alone."""

from antiphon.families.t5_like import t5_encoder

FAMILY = t5_encoder("t5", "T5EncoderModel")
