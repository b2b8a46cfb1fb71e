"""Which method computes a layer whose weight came quantised.

The weight stays as small as it is stored. A method that needs it in a form of its own takes it
over, also where inputs are to be quantised and the method leaves them as they are: that is nearer
to the model that was quantised.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from antiphon.kernels.formats import FLOAT8, INT8
from antiphon.layers.linear import Linear
from antiphon.layers.quantization.dequantized import DequantizedProduct
from antiphon.layers.quantization.float8 import Float8Product, StaticFloat8Product
from antiphon.layers.quantization.grouped import BlockedFloat8Product, BlockedProduct, has_float8
from antiphon.layers.quantization.int4 import Int4Product, Int4ProductOnCPU
from antiphon.layers.quantization.int8 import (
    Int8Product,
    Int8WeightOnly,
    Int8WeightOnlyOnCPU,
    OffsetInt8Product,
)
from antiphon.layers.quantization.quantize import MULTIPLE
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.runtime.device import Target


class Modules(Protocol):
    def modules(self) -> Iterator[nn.Module]: ...


def choose_stored(model: Modules, target: Target) -> None:
    """For every layer with a quantised weight, the fastest method that has its scheme here."""
    choose = _choose_on_cpu if target.device.type == "cpu" else _choose_on_gpu
    for module in model.modules():
        if isinstance(module, Linear) and module.quantized is not None:
            module.use(DequantizedProduct())
            choose(module, module.quantized, target)


def _choose_on_cpu(layer: Linear, weight: QuantizedWeight, target: Target) -> None:
    if Int4ProductOnCPU.suits(weight):
        Int4ProductOnCPU.take(layer, weight)
    elif _is_int8_by_output(weight):
        scale = weight.scales.to(target.dtype)
        inputs = weight.inputs
        if inputs is None and target.dtype == torch.bfloat16:
            layer.quantize(weight.values, scale, Int8WeightOnlyOnCPU())
        elif inputs is None:
            layer.quantize(weight.values, scale, Int8WeightOnly())
        elif not inputs.scheme.group and inputs.scheme.dynamic and inputs.scheme.symmetric:
            Int8Product.make_ready()
            layer.quantize(weight.values, scale, Int8Product(target.dtype))
        elif not inputs.scheme.group:
            layer.quantize(weight.values, scale, OffsetInt8Product(weight, target.dtype))


def _choose_on_gpu(layer: Linear, weight: QuantizedWeight, target: Target) -> None:
    if _is_int8_by_output(weight):
        layer.quantize(weight.values, weight.scales.to(target.dtype), Int8WeightOnly())
    elif BlockedProduct.suits(weight, target):
        BlockedProduct.take(layer, weight)
    elif BlockedFloat8Product.suits(weight, target):
        BlockedFloat8Product.take_for(layer, weight, target.dtype)
    elif Int4Product.suits(weight, target):
        Int4Product.take(layer, weight)
    elif _has_float8_products(weight, target):
        assert weight.inputs is not None
        scheme = weight.inputs.scheme
        method = Float8Product(target.dtype)
        if not scheme.dynamic or scheme.limit is not None:
            method = StaticFloat8Product(target.dtype, weight.inputs)
        layer.quantize(weight.values, weight.scales.float().t().contiguous(), method)


def _is_int8_by_output(weight: QuantizedWeight) -> bool:
    by_output = weight.one_scale_per_output and weight.zeros is None
    return by_output and weight.values.dtype == INT8


def _has_float8_products(weight: QuantizedWeight, target: Target) -> bool:
    """Both sides in float8, with a scale for each row of each."""
    inputs = weight.inputs
    return (
        weight.values.dtype == FLOAT8
        and weight.one_scale_per_output
        and inputs is not None
        and not inputs.scheme.group
        and target.dtype == torch.bfloat16
        and has_float8(target)
        and not any(size % MULTIPLE for size in weight.shape)
    )
