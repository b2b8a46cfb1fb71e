"""Weights as compressed-tensors stores them.

`weight_packed`: words of 32 bits along the inputs. Otherwise `weight` itself is int8 or float8.
Beside it `weight_scale`, `weight_zero_point` and, of static inputs, `input_scale` and
`input_zero_point`.
"""

from collections.abc import Container

import torch

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.quantization.scheme import EVERY, Scheme, WeightScheme
from antiphon.kernels.formats import FLOAT8, INT8
from antiphon.layers.quantization.formats.interface import Format, Tensors, existing
from antiphon.layers.quantization.formats.packing import (
    four_bits,
    signed_bytes,
    unpacked,
    word_span,
)
from antiphon.layers.quantization.formats.scales import by_output, own_group_of
from antiphon.layers.quantization.quantized_weight import QuantizedInput, QuantizedWeight
from antiphon.layers.shard import Span, Spans

AT_TIMES = ("weight_zero_point", "weight_g_idx", "weight_shape", "input_scale", "input_zero_point")


class CompressedTensors(Format):
    def names(self, layer: str, tensors: Container[str]) -> tuple[str, ...]:
        if f"{layer}.weight_scale" not in tensors:
            return ()
        values = existing(layer, ("weight_packed", "weight"), tensors)[:1]
        return (*values, f"{layer}.weight_scale", *existing(layer, AT_TIMES, tensors))

    def read(self, layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
        scheme = self.quantization.scheme_of(layer)
        weights, (outputs, inputs) = scheme.weights, spans
        zeros = None if weights.symmetric else _zeros(layer, tensors, weights, outputs, inputs)
        if f"{layer}.weight_packed" in tensors:
            codes = _packed(layer, tensors, weights.bits, spans)
            if weights.bits == 4:
                values, zeros = four_bits(codes, zeros)
            else:
                values = signed_bytes(codes)
        else:
            values = _plain(layer, tensors, weights, spans)
        block, group_of = weights.block, own_group_of(inputs, weights.block[1])
        if f"{layer}.weight_g_idx" in tensors:  # in the order in which they were quantised
            group_of = tensors.block(f"{layer}.weight_g_idx", (inputs,)).int()
            inputs = Span.whole(inputs.total)
        name = f"{layer}.weight_scale"
        scales = by_output(name, tensors.tensor(name), block, (outputs, inputs))
        return QuantizedWeight(
            values, scales, zeros, block[1], group_of, inputs=_inputs(layer, tensors, scheme)
        )


def _packed(layer: str, tensors: Tensors, bits: int, spans: Spans) -> torch.Tensor:
    """[own outputs, own inputs] uint8 codes"""
    outputs, inputs = spans
    name = f"{layer}.weight_packed"
    words = tensors.block(name, (outputs, word_span(inputs, bits)))
    if words.dtype != torch.int32:
        raise CheckpointError(f"{name} holds {words.dtype}, and words of int32 are packed")
    return unpacked(words, inputs, bits)


def _plain(layer: str, tensors: Tensors, weights: WeightScheme, spans: Spans) -> torch.Tensor:
    """[own outputs, own inputs] int8 or float8"""
    values = tensors.block(f"{layer}.weight", spans)
    expected = FLOAT8 if weights.kind == "float" else INT8
    if values.dtype != expected:
        raise UnsupportedModelError(
            f"{layer}.weight is stored as {values.dtype}, and its quantization_config says "
            f"{weights.label} ({expected}): was it saved without compression? Save it with "
            "save_compressed=True"
        )
    return values


def _zeros(
    layer: str, tensors: Tensors, weights: WeightScheme, outputs: Span, inputs: Span
) -> torch.Tensor | None:
    """Zero points [own outputs, own groups], of codes as `values` has them; None: there are none,
    which stands for 0."""
    name = f"{layer}.weight_zero_point"
    if name not in tensors:
        return None
    stored, is_packed = tensors.tensor(name), f"{layer}.weight_packed" in tensors
    if f"{layer}.weight_g_idx" in tensors:
        inputs = Span.whole(inputs.total)
    if is_packed and stored.dtype == torch.int32 and weights.block != (EVERY, EVERY):
        codes = unpacked(stored.t().contiguous(), Span.whole(outputs.total), weights.bits).t()
        stored = codes if weights.bits == 4 else signed_bytes(codes.contiguous())
    elif is_packed and weights.bits == 4:
        stored = stored + (1 << weights.bits - 1)
    return by_output(name, stored, weights.block, (outputs, inputs))


def _inputs(layer: str, tensors: Tensors, scheme: Scheme) -> QuantizedInput | None:
    if scheme.inputs is None:
        return None
    if scheme.inputs.dynamic:
        return QuantizedInput(scheme.inputs)
    name = f"{layer}.input_scale"
    if name not in tensors:
        raise CheckpointError(
            f"the checkpoint lacks {name}: quantization_config says that it has static scales of "
            "inputs"
        )
    scale, zero = tensors.tensor(name), None
    if scale.numel() != 1:
        raise UnsupportedModelError(
            f"{name} has shape {list(scale.shape)}: one static scale of a layer's inputs is read"
        )
    if not scheme.inputs.symmetric and f"{layer}.input_zero_point" in tensors:
        zero = tensors.tensor(f"{layer}.input_zero_point").reshape(1).float()
    return QuantizedInput(scheme.inputs, scale.reshape(1).float(), zero)
