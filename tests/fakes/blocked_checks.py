"""Products with weights in groups: cases, and what they must give."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.families.quantization.scheme import InputScheme
from antiphon.layers.linear import Linear
from antiphon.layers.linear_methods import SmallBatch
from antiphon.layers.prepare import fuse_small_batches, read_few_rows
from antiphon.layers.quantization.dequantized import rounded
from antiphon.layers.quantization.grouped import BlockedFloat8Product, BlockedProduct, FewRows
from antiphon.layers.quantization.quantized_weight import QuantizedInput, QuantizedWeight
from antiphon.layers.quantization.stored import choose_stored
from antiphon.runtime.device import Target

FLOAT8 = torch.float8_e4m3fn
INPUTS = 512
WEIGHTS = (
    "int4", "int4 with zero points", "int4 by output", "int4 in any order", "int4 shared by ranks",
    "int8", "int8 with zero points in any order", "float8", "float8 by output",
)  # fmt: skip


def weight_of(name: str, outputs: int, inputs: int = INPUTS) -> QuantizedWeight:
    """Random, of one of WEIGHTS."""
    size = 0 if "by output" in name else 64 if name == "int4" else 128
    groups = inputs // size if size else 1
    group_of = torch.arange(inputs) // (size or inputs)
    zeros = None
    if name.startswith("int4"):
        values = torch.randint(0, 256, (outputs, inputs // 2)).to(torch.uint8)
        if "zero" in name:
            zeros = torch.randint(0, 16, (outputs, groups)).to(torch.uint8)
    elif name.startswith("int8"):
        values = torch.randint(-128, 128, (outputs, inputs)).to(torch.int8)
        if "zero" in name:
            zeros = torch.randint(-128, 128, (outputs, groups)).to(torch.int8)
    else:
        values = torch.randn(outputs, inputs).to(FLOAT8)
    order = None
    if "any order" in name:
        order = group_of[torch.randperm(inputs)]
    elif "shared" in name:
        order = (torch.arange(inputs) + size // 3) // size
        groups += 1
    scales = torch.rand(outputs, groups) + 0.5
    return QuantizedWeight(values, scales, zeros, size, order)


def chosen(weight: QuantizedWeight, device: str, dtype: torch.dtype) -> Linear:
    """A layer that computes with `weight` as one on a GPU does."""
    with torch.device(device):
        layer = Linear(weight.shape[1], weight.shape[0])
    assert layer.bias is not None
    torch.nn.init.normal_(layer.bias)
    layer.fill(weight)
    layer.bias.data = layer.bias.data.to(dtype)
    choose_stored(nn.ModuleList([layer]), Target(torch.device("cuda"), dtype))
    return layer


def check_product(
    name: str, rows: int, outputs: int, device: str, dtype: torch.dtype, error: float
) -> None:
    """Of inputs as they are, beside the product with what the weight stands for."""
    torch.manual_seed(rows)
    weight, x = weight_of(name, outputs), torch.randn(rows, INPUTS).to(dtype)
    layer = chosen(weight, device, dtype)
    assert type(layer.own_method) is BlockedProduct
    wanted = F.linear(x.float(), weight.dequantized(torch.float32))
    for _ in range(2):  # programs leave their counters as they found them
        found = layer(x.to(device))
        assert found.dtype == dtype
        check_near(found, wanted, layer, error)


def check_float8_product(
    rows: int, outputs: int, device: str, dtype: torch.dtype, error: float
) -> None:
    """Of inputs in float8 too, with a scale for each token and 128 features."""
    torch.manual_seed(rows)
    inputs = QuantizedInput(InputScheme("float", group=128))
    weight = replace(weight_of("float8", outputs), inputs=inputs)
    x = torch.randn(rows, INPUTS).to(dtype)
    layer = chosen(weight, device, dtype)
    assert type(layer.own_method) is BlockedFloat8Product
    wanted = F.linear(rounded(x.float(), inputs), weight.dequantized(torch.float32))
    check_near(layer(x.to(device)), wanted, layer, error)


def check_few_rows(
    name: str, rows: int, outputs: int, device: str, dtype: torch.dtype, error: float
) -> None:
    """Of a decoder's eight-bit weights with a scale for each output, of `int8` or `float8`, inputs
    too where they are: our kernel, and the one that also norms."""
    torch.manual_seed(rows)
    values = weight_of(name, outputs).values
    inputs = QuantizedInput(InputScheme("float")) if name == "float8" else None
    weight = QuantizedWeight(values, torch.rand(outputs, 1) + 0.5, inputs=inputs)
    target = Target(torch.device("cuda"), dtype)
    x = torch.randn(rows, INPUTS).to(dtype)
    layer = chosen(weight, device, dtype)
    layers = nn.ModuleList([layer])
    read_few_rows(layers, target)
    assert type(layer.own_method) is FewRows
    numbers = x.float() if inputs is None else rounded(x.float(), inputs)
    wanted = F.linear(numbers, weight.dequantized(torch.float32))
    for _ in range(2):
        check_near(layer(x.to(device)), wanted, layer, error)
    fuse_small_batches(layers, target)
    assert type(layer.own_method) is SmallBatch
    check_near(layer(x.to(device)), wanted, layer, error)


def check_near(found: torch.Tensor, wanted: torch.Tensor, layer: Linear, error: float) -> None:
    """`wanted` lacks the bias."""
    assert layer.bias is not None
    difference = found.float().cpu() - layer.bias.float().cpu() - wanted
    assert difference.norm() <= error * wanted.norm()
