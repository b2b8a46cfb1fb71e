"""Triton kernel for a linear layer over few rows: a decoder step of a small batch.

Such a layer is bound by reading its weights, and such a step by the number of its
kernels. So this kernel also computes what lies around the product: the norm of the
input before it; bias, activation and residual sum behind. While the kernel before it
still runs, every program fetches its weights into registers: they depend on nothing.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import (
    FLOAT8,
    FLOAT8_MAX,
    OUTPUTS_TOGETHER,
    SMALL_BATCH,
    SMALLEST_SCALE,
)
from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.norms import activate, as_page_type, saturated

MOST_CHUNKS = 5  # in which a row is loaded
LARGEST, SMALLEST = tl.constexpr(FLOAT8_MAX), tl.constexpr(SMALLEST_SCALE)
# Pages of keys and of values [positions, kv_heads, head_dim], and the slot mapping [rows] int32.
Pages = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
BLOCK_N = OUTPUTS_TOGETHER  # outputs of a program: one per warp


@triton.jit
def _weights(weight, outputs, K: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """A chunk of the weight's rows; beyond the last chunk the first again, which is not used."""
    columns = tl.arange(0, WIDTH) + (CHUNK * WIDTH if CHUNK * WIDTH < K else 0)
    return tl.load(weight + outputs[:, None] * K + columns[None, :])


@triton.jit
def _vector(values, K: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """A chunk of a row as float32; zeros beyond the last chunk."""
    columns = tl.arange(0, WIDTH)
    return (
        tl.load(values + CHUNK * WIDTH + columns).to(tl.float32)
        if CHUNK * WIDTH < K
        else columns.to(tl.float32) * 0.0
    )


@triton.jit
def _centered(value, mean, K: tl.constexpr, CHUNK: tl.constexpr):
    return value - mean if CHUNK * value.shape[0] < K else value


@triton.jit
def _normed(centered, scale, gain, shift, NORM: tl.constexpr, TYPE: tl.constexpr):
    """A chunk, rounded as the norm alone would give it."""
    if NORM == "layer":
        return (centered * scale * gain + shift).to(TYPE).to(tl.float32)
    return ((centered * scale).to(TYPE).to(tl.float32) * gain).to(TYPE).to(tl.float32)


@triton.jit
def _largest(values):
    return tl.max(tl.abs(values), 0)


@triton.jit
def _rounded(values, inverse):
    """As float8 has them, times `inverse`."""
    return saturated(values * inverse).to(tl.float8e4nv).to(tl.float32)


@triton.jit
def _store_paged(
    values, out, k_pages, v_pages, position, row, outputs, N: tl.constexpr, WIDTH: tl.constexpr
):
    """Stores queries in `out`, keys and values at their token's `position` in the pages.

    Of N outputs the last WIDTH are values, those before keys, and the others queries.
    All outputs of a program belong to one of the three.
    """
    first = tl.min(outputs, 0)
    if first < N - 2 * WIDTH:
        tl.store(out + row * (N - 2 * WIDTH) + outputs, values)
    else:
        stored = as_page_type(values, k_pages.dtype.element_ty)
        if first < N - WIDTH:
            tl.store(k_pages + position * WIDTH + outputs - (N - 2 * WIDTH), stored)
        else:
            tl.store(v_pages + position * WIDTH + outputs - (N - WIDTH), stored)


@triton.jit(do_not_specialize=["count"])
def _linear_kernel(
    x, weight, scales, bias, residual, out, k_pages, v_pages, slot_mapping,
    norm_weight, norm_bias, eps, count,
    X_ROW: tl.constexpr, K: tl.constexpr, N: tl.constexpr, KV_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    NORM: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr,
    SCALED: tl.constexpr, ROUNDED: tl.constexpr, PAGED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program i computes outputs [i * BLOCK_N, (i + 1) * BLOCK_N) of all `count` rows.

    K is at most five chunks of BLOCK_K. A program requests all its weights before it waits.
    """
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w0 = _weights(weight, outputs, K, 0, BLOCK_K)
    w1 = _weights(weight, outputs, K, 1, BLOCK_K)
    w2 = _weights(weight, outputs, K, 2, BLOCK_K)
    w3 = _weights(weight, outputs, K, 3, BLOCK_K)
    w4 = _weights(weight, outputs, K, 4, BLOCK_K)
    shift = tl.load(bias + outputs).to(tl.float32) if BIAS else outputs.to(tl.float32) * 0.0
    if SCALED:
        scale_of = tl.load(scales + outputs).to(tl.float32)
    if NORM != "none":
        g0, g1 = _vector(norm_weight, K, 0, BLOCK_K), _vector(norm_weight, K, 1, BLOCK_K)
        g2, g3 = _vector(norm_weight, K, 2, BLOCK_K), _vector(norm_weight, K, 3, BLOCK_K)
        g4 = _vector(norm_weight, K, 4, BLOCK_K)
        b0, b1 = _vector(norm_bias, K, 0, BLOCK_K), _vector(norm_bias, K, 1, BLOCK_K)
        b2, b3 = _vector(norm_bias, K, 2, BLOCK_K), _vector(norm_bias, K, 3, BLOCK_K)
        b4 = _vector(norm_bias, K, 4, BLOCK_K)
    wait_for_previous(OVERLAP)
    for row in tl.static_range(ROWS):
        if row < count:
            x_row = x + row * X_ROW
            x0, x1 = _vector(x_row, K, 0, BLOCK_K), _vector(x_row, K, 1, BLOCK_K)
            x2, x3 = _vector(x_row, K, 2, BLOCK_K), _vector(x_row, K, 3, BLOCK_K)
            x4 = _vector(x_row, K, 4, BLOCK_K)
            if NORM != "none":
                if NORM == "layer":
                    mean = tl.sum(((x0 + x1) + (x2 + x3)) + x4, 0) / K
                    x0, x1 = _centered(x0, mean, K, 0), _centered(x1, mean, K, 1)
                    x2, x3 = _centered(x2, mean, K, 2), _centered(x3, mean, K, 3)
                    x4 = _centered(x4, mean, K, 4)
                squares = ((x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)) + x4 * x4
                scale = tl.rsqrt(tl.sum(squares, 0) / K + eps)
                x0 = _normed(x0, scale, g0, b0, NORM, x.dtype.element_ty)
                x1 = _normed(x1, scale, g1, b1, NORM, x.dtype.element_ty)
                x2 = _normed(x2, scale, g2, b2, NORM, x.dtype.element_ty)
                x3 = _normed(x3, scale, g3, b3, NORM, x.dtype.element_ty)
                x4 = _normed(x4, scale, g4, b4, NORM, x.dtype.element_ty)
            if ROUNDED:  # as rows are where more of them are multiplied
                most = tl.maximum(_largest(x0), _largest(x1))
                most = tl.maximum(most, tl.maximum(_largest(x2), _largest(x3)))
                row_scale = tl.maximum(tl.maximum(most, _largest(x4)), SMALLEST) / LARGEST
                inverse = 1.0 / row_scale
                x0, x1 = _rounded(x0, inverse), _rounded(x1, inverse)
                x2, x3 = _rounded(x2, inverse), _rounded(x3, inverse)
                x4 = _rounded(x4, inverse)
            sums = x0[None, :] * w0.to(tl.float32)
            if BLOCK_K < K:
                sums += x1[None, :] * w1.to(tl.float32)
            if 2 * BLOCK_K < K:
                sums += x2[None, :] * w2.to(tl.float32)
            if 3 * BLOCK_K < K:
                sums += x3[None, :] * w3.to(tl.float32)
            if 4 * BLOCK_K < K:
                sums += x4[None, :] * w4.to(tl.float32)
            # Every step is rounded as where it is a kernel of its own.
            result = tl.sum(sums, 1)
            if SCALED:
                result *= scale_of
            if ROUNDED:
                result *= row_scale
            result = (result + shift).to(out.dtype.element_ty)
            if KIND != "none":
                result = activate(result.to(tl.float32), KIND).to(out.dtype.element_ty)
            if ADD:
                result += tl.load(residual + row * N + outputs)
            if PAGED:
                position = tl.load(slot_mapping + row).to(tl.int64)
                _store_paged(result, out, k_pages, v_pages, position, row, outputs, N, KV_WIDTH)
            else:
                tl.store(out + row * N + outputs, result)


def chunk(inputs: int) -> int:
    """The smallest power of two, from 128, of which `inputs` are one to five; 0 if none is."""
    sizes = (1 << power for power in range(7, 13))
    return next((size for size in sizes if inputs % size == 0 and inputs <= MOST_CHUNKS * size), 0)


def fits(inputs: int, outputs: int) -> bool:
    """Whether the kernel can have a layer of these sizes."""
    return chunk(inputs) > 0 and outputs % BLOCK_N == 0


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    scales: torch.Tensor | None = None,
    norm: tuple[torch.Tensor, torch.Tensor | None, float] | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    pages: Pages | None = None,
) -> torch.Tensor:
    """`residual + activation(norm(x) @ weight.T + bias)` [rows, outputs], for sizes that `fits`.

    `x` [rows, inputs], `weight` [outputs, inputs], `bias` [outputs]. `scales` [outputs,
    1] of an eight-bit weight; with a float8 one, rows become float8 too. `norm`: weight
    [inputs], bias [inputs] (None: RMSNorm) and epsilon. `residual` [rows, outputs],
    contiguous. With `pages`, outputs are queries, keys and values, each a multiple of
    OUTPUTS_TOGETHER: keys and values are written to the pages, and the queries [rows,
    outputs of them] returned.
    """
    rows, inputs = x.shape
    outputs = len(weight)
    kv_width = 0 if pages is None else pages[0][0].numel()
    out = torch.empty((rows, outputs - 2 * kv_width), dtype=x.dtype, device=x.device)
    k_pages, v_pages, slot_mapping = pages or (out, out, out)
    gain, shift, eps = norm or (x, x, 0.0)
    _linear_kernel[(outputs // BLOCK_N,)](
        x, weight, _or(scales, x), _or(bias, x), _or(residual, x), out,
        k_pages, v_pages, slot_mapping, gain, _or(shift, gain), eps, rows,
        X_ROW=x.stride(0), K=inputs, N=outputs, KV_WIDTH=kv_width,
        ROWS=1 if rows == 1 else SMALL_BATCH,
        BLOCK_N=BLOCK_N, BLOCK_K=chunk(inputs),
        NORM="none" if norm is None else "rms" if shift is None else "layer",
        KIND=activation or "none", BIAS=bias is not None, ADD=residual is not None,
        SCALED=scales is not None, ROUNDED=weight.dtype == FLOAT8, PAGED=pages is not None,
        num_warps=BLOCK_N, **overlapped(x.device),
    )  # fmt: skip
    return out


def _or(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """A kernel needs some tensor also for a parameter that its constants say is not read."""
    return other if tensor is None else tensor
