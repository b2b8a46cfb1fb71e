"""One file per structure; `build` makes the decoder half that a checkpoint's description names."""

from antiphon.decoder.models.bart import BartDecoder
from antiphon.decoder.models.interface import DecoderModel
from antiphon.decoder.models.t5 import T5Decoder
from antiphon.families.halves import BartHalf, Half


def build(half: Half, tied_head: bool, logits_bias: bool) -> DecoderModel:
    """`tied_head`: the output matrix is the embedding's. `logits_bias`: the checkpoint holds final_logits_bias."""
    if isinstance(half, BartHalf):
        return BartDecoder(half, tied_head, logits_bias)
    return T5Decoder(half, tied_head)
