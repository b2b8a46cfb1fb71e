"""AWQ's stored form (Lin et al. 2023), in the version called "gemm".

`qweight` [in, out / 8] int32, `qzeros` [groups, out / 8] int32, `scales` [groups, out]. The
eight outputs of a word are interleaved: even ones in its lower half, odd ones in the upper.
"""

from collections.abc import Container

import torch

from antiphon.layers.quantization.formats.interface import Format, Tensors, existing
from antiphon.layers.quantization.formats.packing import four_bits, unpacked, word_span
from antiphon.layers.quantization.formats.scales import own_group_of, own_groups
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.shard import Span, Spans

BITS = 4
PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # where in a word each of eight outputs in a row lies


class AWQ(Format):
    def names(self, layer: str, tensors: Container[str]) -> tuple[str, ...]:
        return existing(layer, ("qweight", "qzeros", "scales"), tensors)

    def read(self, layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
        outputs, inputs = spans
        size = self.quantization.scheme_of(layer).weights.block[1] or inputs.total
        groups, words = Span.whole(-(-inputs.total // size)), word_span(outputs, BITS)
        kept = own_groups(inputs, size)
        codes = _in_order(tensors.block(f"{layer}.qweight", (inputs, words)), outputs)
        zeros = _in_order(tensors.block(f"{layer}.qzeros", (groups, words))[kept], outputs)
        scales = tensors.block(f"{layer}.scales", (groups, outputs))[kept].t().contiguous()
        values, own_zeros = four_bits(codes.t(), zeros.t().contiguous())
        return QuantizedWeight(values, scales, own_zeros, size, own_group_of(inputs, size))


def _in_order(words: torch.Tensor, outputs: Span) -> torch.Tensor:
    """[rows, words] int32 -> [rows, own outputs] uint8"""
    eights = Span(0, words.shape[1] * len(PLACES), words.shape[1] * len(PLACES))
    codes = unpacked(words, eights, BITS).unflatten(1, (-1, len(PLACES)))[..., PLACES].flatten(1)
    before = outputs.first % len(PLACES)
    return codes[:, before : before + outputs.count]
