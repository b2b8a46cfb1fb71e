"""GPTQ's stored form (Frantar et al. 2022), as AutoGPTQ and GPTQModel write it.

`qweight` [in / codes of a word, out] int32, `qzeros` [groups, out / codes of a word] int32,
`scales` [groups, out], `g_idx` [in] int32: the group of each input.
"""

from collections.abc import Container

import torch

from antiphon.config.errors import CheckpointError
from antiphon.families.quantization.scheme import WeightScheme
from antiphon.layers.quantization.formats.interface import Format, Tensors, existing
from antiphon.layers.quantization.formats.packing import (
    four_bits,
    signed_bytes,
    unpacked,
    word_span,
)
from antiphon.layers.quantization.formats.scales import own_group_of, own_groups
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.shard import Span, Spans


class GPTQ(Format):
    def names(self, layer: str, tensors: Container[str]) -> tuple[str, ...]:
        return existing(layer, ("qweight", "qzeros", "scales", "g_idx"), tensors)

    def read(self, layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
        weights, (outputs, inputs) = self.quantization.scheme_of(layer).weights, spans
        bits, size = weights.bits, weights.block[1] or inputs.total
        words = tensors.block(f"{layer}.qweight", (word_span(inputs, bits), outputs))
        codes = unpacked(words.t(), inputs, bits)
        groups = Span.whole(-(-inputs.total // size))
        kept, group_of = _groups(layer, tensors, inputs, size)
        scales = tensors.block(f"{layer}.scales", (groups, outputs))[kept].t().contiguous()
        zeros = _zeros(layer, tensors, weights, groups, outputs)[kept].t().contiguous()
        if bits == 4:
            values, zeros = four_bits(codes, zeros)  # type: ignore[assignment]
        else:
            values, zeros = signed_bytes(codes), signed_bytes(zeros)
        return QuantizedWeight(values, scales, zeros, size, group_of)


def _groups(
    layer: str, tensors: Tensors, inputs: Span, size: int
) -> tuple[slice, torch.Tensor | None]:
    """The groups that the own inputs are in, and the group of each as a `QuantizedWeight` has it:
    in the order in which inputs were quantised, where that is not their own (act-order)."""
    name, in_order = f"{layer}.g_idx", torch.arange(inputs.total) // size
    if name not in tensors:
        return own_groups(inputs, size), own_group_of(inputs, size)
    groups = tensors.block(name, (Span.whole(inputs.total),)).long()
    if torch.equal(groups, in_order):
        return own_groups(inputs, size), own_group_of(inputs, size)
    first, last = int(groups.min()), int(groups.max())
    if first < 0 or last > int(in_order[-1]):
        raise CheckpointError(
            f"{name} names groups {first} to {last}; {inputs.total} inputs in groups of {size} "
            f"have 0 to {int(in_order[-1])}"
        )
    return slice(0, None), groups[inputs.slice].int()


def _zeros(
    layer: str, tensors: Tensors, weights: WeightScheme, groups: Span, outputs: Span
) -> torch.Tensor:
    """[groups, own outputs] uint8"""
    words = tensors.block(f"{layer}.qzeros", (groups, word_span(outputs, weights.bits)))
    zeros = unpacked(words, outputs, weights.bits)
    if weights.layout == "gptq_v2":
        return zeros
    # A zero of 0 was stored as -1, all bits set: the sum wraps around as the difference did.
    return (zeros.int() + 1).remainder(2**weights.bits).to(torch.uint8)
