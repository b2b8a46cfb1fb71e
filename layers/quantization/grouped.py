"""Products with weights that have scales for groups of inputs, by our kernel, on a GPU."""

from functools import cache

import torch

from antiphon.config.arithmetic import ceil_div
from antiphon.kernels.formats import FLOAT8, FLOAT8_CAPABILITY
from antiphon.layers.linear import Linear, LinearMethod, as_tensor
from antiphon.layers.norms import LinearInput
from antiphon.layers.quantization.blocked_weight import BLOCKS, BlockedWeight
from antiphon.layers.quantization.float8 import Float8Product
from antiphon.layers.quantization.int8 import Int8WeightOnly
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.runtime.device import Target

HALF_PRECISION = (torch.float16, torch.bfloat16)
FEWEST_OUTPUTS = 64  # of a program of the kernel
TALLEST_TILE = 128  # rows; up to as many, programs share sums: they would be too few otherwise
SHARES, BLOCKS_OF_SHARE = (1, 2, 4, 8, 16), 4  # programs of one sum; the least blocks of each
MOST_FEW_ROWS = 64  # above, tensor cores are busy enough with weights that were multiplied out
PROGRAMS = 2  # of each multiprocessor, at least
THREE_STAGES = 160 << 10  # bytes of shared memory from which the largest tiles have three stages


class BlockedProduct(LinearMethod):
    """Weights of four or eight bits; inputs stay in the model's precision."""

    def __init__(self, weight: BlockedWeight) -> None:
        self.block, self.order = weight.block, weight.order
        outputs = weight.words.shape[1]
        counts = ceil_div(outputs, FEWEST_OUTPUTS)
        self.counters = torch.zeros(counts, dtype=torch.int32, device=weight.words.device)

    @staticmethod
    def suits(weight: QuantizedWeight, target: Target) -> bool:
        has_zeros = weight.zeros is not None and weight.values.dtype == FLOAT8
        return (
            target.dtype in HALF_PRECISION
            and BlockedWeight.suits(weight)
            and weight.inputs is None
            and not has_zeros
            and (weight.values.dtype != FLOAT8 or has_float8(target))
        )

    @classmethod
    def take(cls, layer: Linear, weight: QuantizedWeight) -> None:
        blocked = BlockedWeight.of(weight)
        layer.quantize(blocked.words, blocked.scales, cls(blocked))

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        rows = as_tensor(x)
        return self.multiply(layer, rows, None, rows.dtype)

    def multiply(
        self, layer: Linear, rows: torch.Tensor, x_scales: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        from antiphon.kernels.grouped_linear import Tile, grouped_linear  # needs Triton

        scales = layer.weight_scale
        assert scales is not None
        blocks, outputs = layer.weight.shape[:2]
        tile = Tile(*tile_of(len(rows), outputs, blocks, rows.device))
        return grouped_linear(
            rows.contiguous(), layer.weight, scales[0], scales[1] if len(scales) > 1 else None,
            layer.bias, tile, block=self.block, dtype=dtype, x_scales=x_scales, order=self.order,
            counters=self.counters,
        )  # fmt: skip


class BlockedFloat8Product(BlockedProduct):
    """Both sides in float8: inputs with a scale for each token and group of features, as large as
    the blocks of the weight."""

    def __init__(self, weight: BlockedWeight, dtype: torch.dtype) -> None:
        super().__init__(weight)
        self.dtype = dtype

    @staticmethod
    def suits(weight: QuantizedWeight, target: Target) -> bool:
        inputs = weight.inputs
        return (
            inputs is not None
            and weight.values.dtype == FLOAT8
            and weight.zeros is None
            and BlockedWeight.suits(weight)
            and weight.group_of is None
            and inputs.scheme.dynamic
            and inputs.scheme.limit is None
            and inputs.scheme.group == weight.group_size
            and inputs.scheme.group in BLOCKS
            and weight.shape[1] % inputs.scheme.group == 0
            and target.dtype in HALF_PRECISION
            and has_float8(target)
        )

    @classmethod
    def take_for(cls, layer: Linear, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        blocked = BlockedWeight.of(weight)
        layer.quantize(blocked.words, blocked.scales, cls(blocked, dtype))

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        from antiphon.kernels.group_rows import quantize_groups  # Triton exists where CUDA does

        values, scales = quantize_groups(as_tensor(x).contiguous(), self.block)
        return self.multiply(layer, values, scales, self.dtype)


class FewRows(LinearMethod):
    """Weights of eight bits [out, in] with a scale for each output: few rows by our kernel, which
    reads no more than these. More rows by `larger`, which also says whether they become float8."""

    def __init__(self, layer: Linear, larger: LinearMethod) -> None:
        self.larger = larger
        counts = ceil_div(layer.shape[0], FEWEST_OUTPUTS)
        self.counters = torch.zeros(counts, dtype=torch.int32, device=layer.device)

    @staticmethod
    def suits(layer: Linear) -> bool:
        return (
            isinstance(layer.own_method, (Float8Product, Int8WeightOnly))
            and layer.shape[1] % BLOCKS[0] == 0
        )

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        rows: LinearInput
        if isinstance(self.larger, Float8Product):
            quantized = self.larger.rows(x)
            rows, values, x_scales = quantized, quantized.values, quantized.scales
            dtype = self.larger.dtype
        else:
            rows = values = as_tensor(x)
            x_scales, dtype = None, values.dtype
        if len(values) > MOST_FEW_ROWS:
            return self.larger.product(layer, rows)
        from antiphon.kernels.grouped_linear import Tile, grouped_linear  # needs Triton

        outputs, inputs = layer.shape
        scales, block = layer.weight_scale, BLOCKS[0]
        assert scales is not None
        tile = Tile(*tile_of(len(values), outputs, inputs // block, values.device))
        return grouped_linear(
            values.contiguous(), layer.weight, scales, None, layer.bias, tile, block=block,
            dtype=dtype, x_scales=x_scales, counters=self.counters,
        )  # fmt: skip

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor | QuantizedRows:
        return self.larger.quantize_input(x)


def has_float8(target: Target) -> bool:
    """Whether the device has float8 numbers."""
    if target.device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(target.device) >= FLOAT8_CAPABILITY


@cache
def tile_of(
    rows: int, outputs: int, blocks: int, device: torch.device
) -> tuple[int, int, int, int, int]:
    """How the kernel is launched, as a `Tile`."""
    height = next((size for size in (16, 32, 64) if rows <= size), TALLEST_TILE)
    width, warps = (FEWEST_OUTPUTS, 4) if height < TALLEST_TILE else (128, 8)
    tiles = ceil_div(rows, height) * ceil_div(outputs, width)
    splits = 1
    if rows <= TALLEST_TILE:
        possible = [count for count in SHARES if count == 1 or count * BLOCKS_OF_SHARE <= blocks]
        enough = [count for count in possible if tiles * count >= PROGRAMS * _processors(device)]
        splits = min(enough, default=max(possible))
    return height, width, splits, warps, 3 if _shared_bytes(device) >= THREE_STAGES else 2


def _shared_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return THREE_STAGES
    return torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
