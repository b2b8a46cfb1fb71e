"""One linear layer over few rows, its weight quantised: our kernel beside others and the limit.

    python benchmarks/scripts/quantized_products.py [--rows 1,16,64,128] [--kinds int4,fp8]
        [--shapes 3584x3584,18944x3584] [--every-tile]

On a CUDA device. Shapes are outputs x inputs; those of Qwen2.5-VL-7B without. `int4`: groups of
128. `fp8`: blocks of 128 by 128, inputs scaled for each token and 128 features. Each figure is
microseconds of a call in a graph, of weights that no cache holds. `limit`: the weight's bytes at
the rate of a copy.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product

import torch

from antiphon.benchmarks.machine import measure, seconds_in_graph
from antiphon.benchmarks.report import Row, table
from antiphon.kernels.compile import compiling_together
from antiphon.kernels.grouped_linear import Tile, grouped_linear
from antiphon.layers.quantization.blocked_weight import BlockedWeight
from antiphon.layers.quantization.int4 import INNER_TILES
from antiphon.layers.quantization.quantized_weight import QuantizedWeight

GROUP, FLOAT8 = 128, torch.float8_e4m3fn
ROTATED = 256 << 20  # bytes of weights that a measurement reads in turn
SHAPES = "4608x3584,3584x3584,37888x3584,3584x18944"
MOST_COPIES = 32
Call = Callable[[int], object]


def tiles(rows: int) -> list[Tile]:
    height = next((size for size in (16, 32, 64) if rows <= size), 128)
    splits = (1, 2, 4, 8, 16) if rows <= 128 else (1, 2)
    shapes = ((64, 4), (128, 4), (128, 8))
    return [
        Tile(height, outputs, split, warps, stages)
        for (outputs, warps), split, stages in product(shapes, splits, (3, 5))
    ]


class Layer:
    """Copies of one quantised weight, and its kinds of products with `rows` of inputs."""

    def __init__(self, kind: str, outputs: int, inputs: int) -> None:
        self.kind, self.outputs, self.inputs = kind, outputs, inputs
        groups = inputs // GROUP
        scales = torch.rand(outputs, groups, device="cuda") * 0.01 + 0.001
        if kind == "int4":
            values = torch.randint(0, 256, (outputs, inputs // 2), device="cuda").to(torch.uint8)
            self.weight = QuantizedWeight(values, scales.bfloat16(), None, GROUP)
        else:
            values = torch.randn(outputs, inputs, device="cuda").to(FLOAT8)
            self.weight = QuantizedWeight(values, scales, None, GROUP)
        self.plain = self.weight.dequantized(torch.bfloat16)
        self.blocked = BlockedWeight.of(self.weight)
        self.bytes = self.weight.nbytes

    def copies(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        count = min(MOST_COPIES, -(-ROTATED // tensor.nbytes))
        return [tensor, *(tensor.clone() for _ in range(count - 1))]

    def row(self, x: torch.Tensor, every: bool) -> list[Row]:
        case = {"kind": self.kind, "out": self.outputs, "in": self.inputs, "rows": len(x)}
        others = {"bf16": self.plain_seconds(x) * 1e6, "torch": self.torch_seconds(x) * 1e6}
        seconds = self.own_seconds(x)
        best = sorted(seconds, key=lambda tile: seconds[tile])
        figures = [
            {**case, "tile": label(tile), "ours": seconds[tile] * 1e6}
            for tile in (best[:8] if every else best[:1])
        ]
        figures[0] |= {**others, "error": self.error(x, best[0])}
        return figures

    def plain_seconds(self, x: torch.Tensor) -> float:
        weights = self.copies(self.plain)
        return seconds_in_graph(lambda i: x @ weights[i].t(), len(weights))

    def torch_seconds(self, x: torch.Tensor) -> float:
        """torch's own operator of the same kind: groups of four bits; float8 rows."""
        if self.kind == "int4":
            codes = self.weight.codes()
            pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
            packed = torch.ops.aten._convert_weight_to_int4pack(pairs, INNER_TILES)
            scales = torch.stack((self.weight.scales, self.weight.scales), -1)
            both, all_packed = scales.transpose(0, 1).contiguous(), self.copies(packed)
            multiply = torch.ops.aten._weight_int4pack_mm
            return seconds_in_graph(
                lambda i: multiply(x, all_packed[i], GROUP, both), len(all_packed)
            )
        values, half = self.copies(self.weight.values), x.to(FLOAT8)
        one = torch.ones(len(x), 1, device="cuda"), torch.ones(1, self.outputs, device="cuda")
        return seconds_in_graph(
            lambda i: torch._scaled_mm(
                half, values[i].t(), *one, out_dtype=torch.bfloat16, use_fast_accum=True
            ),
            len(values),
        )

    def own_seconds(self, x: torch.Tensor) -> dict[Tile, float]:
        weights, chosen = self.copies(self.blocked.words), tiles(len(x))
        calls = {tile: self.call(x, tile, weights) for tile in chosen}
        with compiling_together():
            for call in calls.values():
                call(0)
        seconds = {}
        for tile, call in calls.items():
            try:
                seconds[tile] = seconds_in_graph(call, len(weights))
            except Exception as error:  # more memory than a multiprocessor has
                print(f"{label(tile)}: {type(error).__name__}: {str(error)[:100]}")
        return seconds

    def call(self, x: torch.Tensor, tile: Tile, weights: list[torch.Tensor]) -> Call:
        counters = torch.zeros(len(weights), 1 << 12, dtype=torch.int32, device="cuda")
        x_scales = None
        if self.kind == "fp8":
            x_scales = torch.ones(len(x), self.inputs // GROUP, device="cuda")
            x = x.to(FLOAT8)
        run = partial(
            grouped_linear, block=self.blocked.block, dtype=torch.bfloat16, x_scales=x_scales
        )
        return lambda i: run(
            x, weights[i], self.blocked.scales[0], None, None, tile, counters=counters[i]
        )

    def error(self, x: torch.Tensor, tile: Tile) -> float:
        """Of our product beside one in float32, as a share of its size."""
        ours = self.call(x, tile, [self.blocked.words])(0)
        assert isinstance(ours, torch.Tensor)
        numbers = x.to(FLOAT8).float() if self.kind == "fp8" else x.float()
        wanted = numbers @ self.weight.dequantized(torch.float32).t()
        return float((ours.float() - wanted).norm() / wanted.norm())


def label(tile: Tile) -> str:
    return f"{tile.rows}x{tile.outputs}/{tile.splits} w{tile.warps} s{tile.stages}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1,16,64,128")
    parser.add_argument("--kinds", default="int4,fp8")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--every-tile", action="store_true", help="the eight best of each case")
    options = parser.parse_args()
    machine = measure()
    print(machine)
    rows: list[Row] = []
    for kind, shape in product(options.kinds.split(","), options.shapes.split(",")):
        outputs, inputs = map(int, shape.split("x"))
        layer = Layer(kind, outputs, inputs)
        limit = layer.bytes / machine.copy_bytes_per_second * 1e6
        for count in map(int, options.rows.split(",")):
            x = torch.randn(count, inputs, device="cuda", dtype=torch.bfloat16)
            figures = layer.row(x, options.every_tile)
            figures[0]["limit"] = limit
            rows += figures
            print(table(figures), flush=True)
        del layer
    print(table(rows))


if __name__ == "__main__":
    main()
