"""Launches of linear layers' kernels with all types; see `compile_for_hopper.py`."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from antiphon.kernels import small_batch_linear
from antiphon.kernels.group_rows import quantize_groups
from antiphon.kernels.grouped_linear import Tile, grouped_linear

HALF, FLOAT8 = (torch.float16, torch.bfloat16), torch.float8_e4m3fn
WIDTH, HEADS, HEAD_DIM = 1280, 20, 64
ROWS = 2


def pools(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.zeros(64, HEADS, HEAD_DIM).to(dtype) for _ in range(2))  # type: ignore[return-value]


def small_batches(dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    x, vector = torch.zeros(ROWS, WIDTH, dtype=dtype), torch.zeros(WIDTH, dtype=dtype)
    weight = torch.zeros(3 * WIDTH, WIDTH, dtype=dtype)
    square, bias = weight[:WIDTH], torch.zeros(3 * WIDTH, dtype=dtype)
    int8, scales = torch.zeros(WIDTH, WIDTH, dtype=torch.int8), torch.zeros(WIDTH, 1, dtype=dtype)
    linear = small_batch_linear.linear
    for norm in (None, (vector, vector, 1e-5), (vector, None, 1e-6)):
        yield f"linear {dtype}", partial(linear, x, square, vector, norm=norm, activation="gelu")
        yield f"linear residual {dtype}", partial(linear, x, square, None, norm=norm, residual=x)
        yield f"linear int8 {dtype}", partial(linear, x, int8, vector, norm=norm, scales=scales)
        float8, of_float8 = int8.to(FLOAT8), scales.float().t()
        call = partial(linear, x, float8, vector, norm=norm, scales=of_float8)
        yield f"linear float8 {dtype}", call
        for page_type in (dtype, FLOAT8):
            pages = (*pools(page_type), torch.zeros(ROWS, dtype=torch.int32))
            yield (
                f"linear pages {dtype} {page_type}",
                partial(linear, x, weight, bias, norm=norm, pages=pages),
            )


def grouped(dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Every form of weights, as few and as many rows are multiplied."""
    x, bias = torch.zeros(ROWS, WIDTH, dtype=dtype), torch.zeros(WIDTH, dtype=dtype)
    scales = torch.zeros(WIDTH // 128, WIDTH)
    order, counters = torch.zeros(WIDTH, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    yield f"quantize_groups {dtype}", partial(quantize_groups, x, 128)
    words = torch.zeros(WIDTH // 128, WIDTH, 32, dtype=torch.int16)
    eights = torch.zeros(WIDTH // 128, WIDTH, 128, dtype=torch.int8)
    own = partial(grouped_linear, block=128, dtype=dtype, counters=counters)
    few, many = Tile(16, 64, 4, 4, 5), Tile(128, 128, 1, 8, 3)
    for weight, zeros in itertools.product((words, eights), (None, scales)):
        call = partial(own, x, weight, scales, zeros, bias, few)
        yield f"grouped_linear {weight.dtype} {dtype}", call
    yield f"grouped_linear in order {dtype}", partial(call, order=order)
    yield f"grouped_linear of many {dtype}", partial(own, x, words, scales, None, bias, many)
    float8 = eights.to(FLOAT8)
    yield f"grouped_linear float8 {dtype}", partial(own, x, float8, scales, None, bias, few)
    both = partial(own, x.to(FLOAT8), float8, scales, None, bias, many, x_scales=scales)
    yield f"grouped_linear of float8 {dtype}", both
    by_row = partial(own, x, zeros=None, bias=bias, tile=few)
    eights = torch.zeros(WIDTH, WIDTH, dtype=torch.int8)
    row_scales = torch.zeros(ROWS, 1)
    yield f"grouped_linear by row {dtype}", partial(by_row, weight=eights, scales=bias)
    float8 = partial(own, x.to(FLOAT8), eights.to(FLOAT8), scales[0], None, bias, few)
    yield f"grouped_linear of float8 by row {dtype}", partial(float8, x_scales=row_scales)
