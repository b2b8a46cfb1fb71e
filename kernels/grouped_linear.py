"""Triton kernel for a linear layer whose weight has few bits, and a scale for each group of inputs.

A step of a decoder is bound by reading weights, so they are read as they are stored and made into
numbers in registers, just before the tensor cores take them. The weight is the left side of the
product (its outputs are rows of a tile): that side may stay in registers. Scales multiply the sums
of a block of inputs, not each weight.

Where outputs alone give too few programs, several share the sums of one tile: the last that
arrives adds up what they wrote, always in the same order.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from antiphon.kernels.launch import overlapped, to_l2, wait_for_previous

# Blocks of its weights and of its scales that a program fetches while the kernel before it ends.
FETCHED_BLOCKS, FETCHED_SCALES = tl.constexpr(4), tl.constexpr(64)


@dataclass(frozen=True)
class Tile:
    """How the kernel is launched: rows (tokens) and outputs of a program, programs that share a
    sum, warps, and blocks of inputs in flight."""

    rows: int
    outputs: int
    splits: int
    warps: int
    stages: int


@triton.jit
def _four_bits(words, zeros, PART: tl.constexpr, dtype: tl.constexpr, FAST: tl.constexpr):
    """Numbers of four bits: of each 16 bits of `words` [outputs, words] the one at PART, less
    `zeros` [outputs, 1].

    FAST: two at once. The bits of a number below those of 128 (of 1024, in float16) are 128 plus
    it.
    """
    if FAST and dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 word, one; shr.u32 word, $1, $3; "
            "lop3.b32 word, word, 0x000f000f, 0x43004300, 0xea; mov.b32 one, 0x3f803f80; "
            "fma.rn.bf16x2 $0, word, one, $2; }",
            "=r,r,r,r,r",
            [words, (-128.0 - zeros).to(tl.bfloat16), 4 * PART],
            tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    elif FAST and dtype == tl.float16:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 word; shr.u32 word, $1, $3; "
            "lop3.b32 word, word, 0x000f000f, 0x64006400, 0xea; add.rn.f16x2 $0, word, $2; }",
            "=r,r,r,r,r",
            [words, (-1024.0 - zeros).to(tl.float16), 4 * PART],
            tl.float16,
            is_pure=True,
            pack=2,
        )
    return (((words.to(tl.int32) >> (4 * PART)) & 15).to(tl.float32) - zeros).to(dtype)


@triton.jit
def _tile_sum(
    values, partial, counters, out, bias, rows, outputs, n, m,
    SPLITS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Stores `values` [outputs, rows] of a tile; of several programs' the last stores the sum."""
    inside = (n < outputs)[:, None] & (m < rows)[None, :]
    places = m[None, :].to(tl.int64) * outputs + n[:, None]
    if SPLITS > 1:
        size = (tl.zeros([1], tl.int64) + rows) * outputs
        tl.store(partial + tl.program_id(2) * size[:, None] + places, values, mask=inside)
        tl.debug_barrier()
        counter = counters + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        last = tl.atomic_add(counter, 1, sem="acq_rel") == SPLITS - 1
        if last:
            values = tl.zeros_like(values)
            for split in tl.static_range(SPLITS):
                values += tl.load(
                    partial + split * size[:, None] + places,
                    mask=inside,
                    other=0.0,
                    cache_modifier=".cg",
                )
            if BIAS:
                values += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[:, None]
            tl.store(out + places, values.to(out.dtype.element_ty), mask=inside)
            tl.store(counter, 0)
    else:
        if BIAS:
            values += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[:, None]
        tl.store(out + places, values.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _grouped_linear_kernel(
    x, x_scales, order, weight, scales, zeros, bias, out, partial, counters,
    rows, outputs, x_row, blocks,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr, EVEN: tl.constexpr, ORDERED: tl.constexpr, ZEROS: tl.constexpr,
    X_SCALED: tl.constexpr, BIAS: tl.constexpr, FAST: tl.constexpr, BY_ROW: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program (i, j, k) computes BLOCK_M rows and BLOCK_N outputs over the k-th share of inputs.

    BY_ROW: an output's words lie together, and have one scale; else those of a block do.
    """
    WORDS: tl.constexpr = BLOCK // PARTS
    TYPE: tl.constexpr = x.dtype.element_ty
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    own = n if EVEN else tl.minimum(n, outputs - 1)
    row_words = blocks * WORDS if BY_ROW else WORDS  # from an output to the next one
    block_words = WORDS if BY_ROW else outputs * WORDS  # and from a block
    block_scales = 0 if BY_ROW else outputs
    words = own[:, None] * row_words + tl.arange(0, WORDS)[None, :]
    share = tl.cdiv(blocks, SPLITS)
    first = tl.program_id(2) * share
    end = tl.minimum(first + share, blocks)
    if OVERLAP:
        LINE: tl.constexpr = (
            1024 // weight.dtype.element_ty.primitive_bitwidth
        )  # words of 128 bytes
        lines = tl.program_id(1) * BLOCK_N * WORDS + tl.arange(0, BLOCK_N * WORDS // LINE) * LINE
        lines = own * row_words if BY_ROW else tl.minimum(lines, outputs * WORDS - 1)
        for i in tl.static_range(FETCHED_BLOCKS):
            to_l2(weight + tl.minimum(first + i, blocks - 1) * block_words + lines)
        later = tl.minimum(first + tl.arange(0, FETCHED_SCALES), blocks - 1) * block_scales
        to_l2(scales + later + tl.minimum(tl.program_id(1) * BLOCK_N, outputs - 1))
    wait_for_previous(OVERLAP)
    inside = (m < rows)[None, :]
    x_columns = x + m[None, :].to(tl.int64) * x_row
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    # The compiler fetches ahead what the products read, and not what their sums are scaled by. (A
    # value that is carried further than one block would keep it from that.)
    scale = tl.load(scales + tl.minimum(first, blocks - 1) * block_scales + own)
    if ZEROS:
        zero = tl.load(zeros + tl.minimum(first, blocks - 1) * outputs + own)
    for block in range(first, end):
        stored = tl.load(weight + block * block_words + words)
        ahead = tl.minimum(block + 1, blocks - 1) * block_scales + own
        next_scale = tl.load(scales + ahead)
        if ZEROS:
            next_zero = tl.load(zeros + ahead)
            offset = zero.to(tl.float32)[:, None]
        else:
            offset = tl.full([BLOCK_N, 1], 8.0 if PARTS > 1 else 0.0, tl.float32)
        term = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for part in tl.static_range(PARTS):
            k = block * BLOCK + part * WORDS + tl.arange(0, WORDS)
            if ORDERED:
                k = tl.load(order + k)
            features = tl.load(x_columns + k[:, None], mask=inside, other=0.0)
            if PARTS > 1:
                numbers = _four_bits(stored, offset, part, TYPE, FAST)
            elif ZEROS:
                numbers = (stored.to(tl.float32) - offset).to(TYPE)
            else:
                numbers = stored.to(TYPE)
            term = tl.dot(numbers, features, term, input_precision="ieee")
        if X_SCALED:
            scale_index = m if BY_ROW else m * blocks + block
            x_scale = tl.load(x_scales + scale_index, mask=m < rows, other=0.0)
            term *= x_scale[None, :]
        sums += term * scale.to(tl.float32)[:, None]
        scale = next_scale
        if ZEROS:
            zero = next_zero
    _tile_sum(sums, partial, counters, out, bias, rows, outputs, n, m, SPLITS, BIAS)


def grouped_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    tile: Tile,
    *,
    block: int,
    dtype: torch.dtype,
    x_scales: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
    counters: torch.Tensor | None = None,
) -> torch.Tensor:
    """`x @ ((weight - zeros) * scales).T + bias` [rows, outputs] of `dtype`.

    `x` [rows, inputs], `weight` [blocks, outputs, words]: `block` inputs in words of int8 or
    float8, one each, or of int16, four each, of which word i of `words` has inputs i, i + words,
    ... in its bits from the lowest on. `scales` and `zeros` [blocks, outputs]; the zeros of four
    bits are 8 without. `order` [blocks * block] int32: which inputs those of the blocks are; they
    are x's own without. `x_scales` [rows, blocks] float32 multiply float8 `x`. `counters`: int32
    zeros, one for each tile, of this layer alone; needed where programs share a sum.

    Or `weight` [outputs, inputs] of int8 or float8, with `scales` [outputs] and `x_scales` [rows];
    `inputs` is a multiple of `block`, which is 128.
    """
    by_row = weight.ndim == 2
    rows, outputs = len(x), weight.shape[-2]
    blocks = weight.shape[1] // block if by_row else len(weight)
    words = block if by_row else weight.shape[2]
    out = torch.empty((rows, outputs), dtype=dtype, device=x.device)
    partial = out
    if tile.splits > 1:
        shape = (tile.splits, rows, outputs)
        partial = torch.empty(shape, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(outputs, tile.outputs), tile.splits)
    _grouped_linear_kernel[grid](
        x, _or(x_scales, x), _or(order, x), weight, scales, _or(zeros, scales), _or(bias, x), out,
        partial, _or(counters, x), rows, outputs, x.stride(0), blocks,
        BLOCK=block, PARTS=block // words, BLOCK_M=tile.rows, BLOCK_N=tile.outputs,
        SPLITS=tile.splits, EVEN=outputs % tile.outputs == 0, ORDERED=order is not None,
        ZEROS=zeros is not None, X_SCALED=x_scales is not None, BIAS=bias is not None,
        FAST=not triton.knobs.runtime.interpret, BY_ROW=by_row, num_warps=tile.warps,
        num_stages=tile.stages, **overlapped(x.device),
    )  # fmt: skip
    return out


def _or(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    return other if tensor is None else tensor
