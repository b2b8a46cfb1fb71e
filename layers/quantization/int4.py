"""Weights of four bits in groups of inputs, by torch's own operators.

Inputs are bfloat16, as such weights are made for: the operators are fast in it alone (on a CPU
with AVX-512, 1024 by 1024 weights and 4 rows: 0.3 ms; in float32 29 ms, and a plain product 1.9).
"""

from abc import abstractmethod

import torch

from antiphon.layers.linear import Linear, LinearMethod, as_tensor
from antiphon.layers.norms import LinearInput
from antiphon.layers.quantization.ordering import in_order
from antiphon.layers.quantization.quantized_weight import FOUR_BIT_ZERO, QuantizedWeight
from antiphon.runtime.device import Target

GROUPS = (32, 64, 128, 256)  # inputs that may share a scale
CPU_OUTPUTS, GPU_OUTPUTS = 16, 8  # multiples of outputs
INNER_TILES, INPUTS_OF_TILE = 8, 16  # of a GPU's layout


def _has_groups(weight: QuantizedWeight) -> bool:
    """Integers of four bits, in groups of a size that the operators have."""
    return (
        weight.has_four_bits
        and weight.codebook is None
        and weight.inputs is None
        and _group_size(weight) in GROUPS
        and (weight.group_of is None or weight.has_whole_zeros)
        and (weight.group_of is not None or weight.shape[1] % _group_size(weight) == 0)
    )


def _ordered(weight: QuantizedWeight) -> tuple[QuantizedWeight, torch.Tensor | None]:
    """As `in_order`: groups that are whole stay so, and those of which this rank has a share are
    filled up as little as the operators allow."""
    if weight.group_of is None:
        return weight, None
    counts = torch.bincount(weight.groups())
    whole = bool((counts % weight.group_size == 0).all())
    return in_order(weight, weight.group_size if whole else GROUPS[0])


def _group_size(weight: QuantizedWeight) -> int:
    """One scale per output is one of groups that have the same scale."""
    if weight.group_size:
        return weight.group_size
    return next((size for size in reversed(GROUPS) if weight.shape[1] % size == 0), 0)


def _scales_and_zeros(weight: QuantizedWeight) -> torch.Tensor:
    """[groups, out, 2] bfloat16: the scale, and what the code 8 stands for."""
    scales = weight.scales.float()
    zeros = torch.full_like(scales, FOUR_BIT_ZERO) if weight.zeros is None else weight.zeros
    shift = (FOUR_BIT_ZERO - zeros.float()) * scales
    groups = weight.shape[1] // _group_size(weight)
    both = torch.stack((scales, shift), dim=-1).expand(-1, groups, -1)
    return both.transpose(0, 1).to(torch.bfloat16).contiguous()


class GroupedProduct(LinearMethod):
    """The weight is in the operator's own layout; its scales [groups, out, 2] tell the groups.

    `order` [places]: which inputs the weight's are, where groups had them in any order.
    """

    def __init__(self, order: torch.Tensor | None) -> None:
        self.order = order

    @abstractmethod
    def multiply(
        self, rows: torch.Tensor, packed: torch.Tensor, size: int, scales: torch.Tensor
    ) -> torch.Tensor:
        """`rows` [tokens, in] bfloat16 with the weight, in groups of `size` -> [tokens, out]"""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        rows, scales = as_tensor(x), layer.weight_scale
        assert scales is not None
        half = rows.to(torch.bfloat16)
        half = half.contiguous() if self.order is None else half[:, self.order]
        size = half.shape[1] // len(scales)
        product = self.multiply(half, layer.weight, size, scales).to(rows.dtype)
        return product if layer.bias is None else product + layer.bias


class Int4ProductOnCPU(GroupedProduct):
    """By torch's operator for CPUs."""

    @staticmethod
    def suits(weight: QuantizedWeight) -> bool:
        return _has_groups(weight) and weight.shape[0] % CPU_OUTPUTS == 0

    @classmethod
    def take(cls, layer: Linear, weight: QuantizedWeight) -> None:
        weight, order = _ordered(weight)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes().int(), 1)
        layer.quantize(packed, _scales_and_zeros(weight), cls(order))

    def multiply(
        self, rows: torch.Tensor, packed: torch.Tensor, size: int, scales: torch.Tensor
    ) -> torch.Tensor:
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, packed, size, scales
        )
        return product


class Int4Product(GroupedProduct):
    """On a GPU, in bfloat16: by torch's operator, whose layout is its own."""

    @staticmethod
    def suits(weight: QuantizedWeight, target: Target) -> bool:
        outputs, inputs = weight.shape
        return (
            _has_groups(weight)
            and weight.group_of is None
            and target.dtype == torch.bfloat16
            and outputs % GPU_OUTPUTS == 0
            and inputs % (INNER_TILES * INPUTS_OF_TILE) == 0
        )

    @classmethod
    def take(cls, layer: Linear, weight: QuantizedWeight) -> None:
        codes = weight.codes()
        pairs = codes[:, ::2] << 4 | codes[:, 1::2]  # the first in the upper half
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), INNER_TILES)
        layer.quantize(packed, _scales_and_zeros(weight), cls(None))

    def multiply(
        self, rows: torch.Tensor, packed: torch.Tensor, size: int, scales: torch.Tensor
    ) -> torch.Tensor:
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm(rows, packed, size, scales)
        return product
