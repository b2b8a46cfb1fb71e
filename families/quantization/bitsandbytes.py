"""bitsandbytes' `quantization_config`: LLM.int8 and the two forms of four bits."""

from collections.abc import Mapping
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.quantization.scheme import (
    EVERY_LINEAR,
    Rule,
    Scheme,
    StoredQuantization,
    WeightScheme,
)

BLOCK = 64  # four-bit numbers with a factor; each tensor says its own
EIGHT_BITS, FOUR_BITS = "llm_int8", "blocks"


def read_bitsandbytes(settings: Mapping[str, Any]) -> StoredQuantization:
    """Where weights are stored as plain numbers all the same, they are read as such: transformers
    would quantise them as it loads them, which is `quantization="int8"` here.

    Inputs stay in the model's precision, those of LLM.int8 too: it quantises those without large
    numbers, for speed.
    """
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        weights = WeightScheme("int", 8, layout=EIGHT_BITS)
    elif settings.get("load_in_4bit") or settings.get("_load_in_4bit"):
        kind = settings.get("bnb_4bit_quant_type", "fp4")
        if kind not in ("nf4", "fp4"):
            raise UnsupportedModelError(f"bitsandbytes' {kind} is not read: nf4 and fp4 are")
        weights = WeightScheme(kind, 4, (1, BLOCK), layout=FOUR_BITS)
    else:
        raise UnsupportedModelError("bitsandbytes' settings say neither 8 bits nor 4")
    kept_out = tuple(settings.get("llm_int8_skip_modules") or ())
    return StoredQuantization("bitsandbytes", (Rule(EVERY_LINEAR, Scheme(weights)),), kept_out)
