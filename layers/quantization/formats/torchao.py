"""torchao's stored forms, as transformers saves them in safetensors.

A tensor subclass is taken apart: `weight` becomes `_weight_qdata`, `_weight_scale`,
`_weight_zero_point`. Int8, intx and float8 have a number an element and scales [out, groups]; int4
has two codes a byte, signed, the first in the lower half, and scales and zeros [groups, out].
"""

from collections.abc import Container

import torch

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.quantization.scheme import EVERY, WeightScheme
from antiphon.kernels.formats import FLOAT8, INT8
from antiphon.layers.quantization.formats.interface import Format, Tensors, existing
from antiphon.layers.quantization.formats.packing import four_bits
from antiphon.layers.quantization.formats.scales import by_output, own_group_of, own_groups
from antiphon.layers.quantization.quantized_weight import (
    FOUR_BIT_ZERO,
    QuantizedInput,
    QuantizedWeight,
)
from antiphon.layers.shard import Span, Spans

CODES, SCALE, ZERO = "_weight_qdata", "_weight_scale", "_weight_zero_point"
# Of weights in the order of a device's kernel, of static inputs, and of inputs scaled beforehand.
NOT_READ = ("_weight_scale_and_zero", "_weight_act_quant_scale", "_weight_act_pre_scale")
SIGNS = 0x88  # of both four-bit numbers of a byte


class TorchAO(Format):
    def names(self, layer: str, tensors: Container[str]) -> tuple[str, ...]:
        return existing(layer, (CODES, SCALE, ZERO, *NOT_READ), tensors)

    def read(self, layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
        if others := existing(layer, NOT_READ, tensors):
            raise UnsupportedModelError(
                f"{others[0]} is not read: save the model with plain numbers and dynamic inputs"
            )
        scheme = self.quantization.scheme_of(layer)
        if scheme.weights.layout == "int4":
            return _four_bits(layer, tensors, scheme.weights, spans)
        values, zeros = _values(layer, tensors, scheme.weights, spans), None
        if f"{layer}.{ZERO}" in tensors:
            zeros = _by_output(layer, ZERO, tensors, scheme.weights, spans)
        scales = _by_output(layer, SCALE, tensors, scheme.weights, spans)
        if scheme.weights.bits == 4:
            zeros = None if zeros is None else zeros + FOUR_BIT_ZERO
            values, zeros = four_bits((values + FOUR_BIT_ZERO).to(torch.uint8), zeros)
        elif zeros is not None and not zeros.any():
            zeros = None
        inputs = None if scheme.inputs is None else QuantizedInput(scheme.inputs)
        size = scheme.weights.block[1]
        group_of = own_group_of(spans[1], size)
        return QuantizedWeight(values, scales, zeros, size, group_of, inputs=inputs)


def _values(layer: str, tensors: Tensors, weights: WeightScheme, spans: Spans) -> torch.Tensor:
    """[own outputs, own inputs] int8 or float8"""
    values = tensors.block(f"{layer}.{CODES}", spans)
    expected = FLOAT8 if weights.kind == "float" else INT8
    if values.dtype != expected:
        raise CheckpointError(
            f"{layer}.{CODES} is stored as {values.dtype}, and quantization_config says "
            f"{weights.label} ({expected})"
        )
    return values


def _by_output(
    layer: str, part: str, tensors: Tensors, weights: WeightScheme, spans: Spans
) -> torch.Tensor:
    """[own outputs, own groups]; one number for all stands for each."""
    name, block = f"{layer}.{part}", weights.block
    stored = tensors.tensor(name)
    block = (EVERY, EVERY) if stored.numel() == 1 else block
    return by_output(name, stored, block, spans)


def _four_bits(
    layer: str, tensors: Tensors, weights: WeightScheme, spans: Spans
) -> QuantizedWeight:
    """q in -8 to 7 stands for `q * scale + zero`."""
    outputs, inputs = spans
    size = weights.block[1]
    halves = Span(inputs.first // 2, inputs.count // 2, inputs.total // 2)
    groups, kept = Span.whole(-(-inputs.total // size)), own_groups(inputs, size)
    codes = tensors.block(f"{layer}.{CODES}", (outputs, halves)).contiguous().view(torch.uint8)
    scales, shifts = (
        tensors.block(f"{layer}.{part}", (groups, outputs))[kept].t().float().contiguous()
        for part in (SCALE, ZERO)
    )
    zeros = FOUR_BIT_ZERO - shifts / scales
    return QuantizedWeight(codes ^ SIGNS, scales, zeros, size, own_group_of(inputs, size))
