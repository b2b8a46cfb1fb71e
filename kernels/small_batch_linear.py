"""Triton kernel for a linear layer over few rows: a decoder step of a small batch.

There a linear layer is bound by reading its weights, a step by how many kernels it launches. So what lies around the product is done by
the same kernel: the norm of its input before, bias, activation and the residual sum behind. While the kernel before it still
runs, each program fetches its weights into registers: they depend on nothing.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import SMALL_BATCH
from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.norms import activate, as_kept

MOST_CHUNKS = 5  # that a row is loaded in
Pages = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor
]  # keys and values [slots, heads, head_dim], and slots [rows] int32
BLOCK_N = 4  # outputs of a program: one for each warp


@triton.jit
def _weights(weight, outputs, K: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """A chunk of the weight's rows; where there is no such chunk the first again, which nobody uses."""
    columns = tl.arange(0, WIDTH) + (CHUNK * WIDTH if CHUNK * WIDTH < K else 0)
    return tl.load(weight + outputs[:, None] * K + columns[None, :])


@triton.jit
def _vector(values, K: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """A chunk of a row; zeros where there is none."""
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
def _store_paged(found, out, k_pages, v_pages, slot, row, outputs, WIDTH: tl.constexpr):
    """Queries into `out`, keys and values where their token has its place; a program's outputs belong to one of the three."""
    part = tl.min(outputs, 0) // WIDTH
    columns = outputs - part * WIDTH
    if part == 0:
        tl.store(out + row * WIDTH + columns, found)
    else:
        kept = as_kept(found, k_pages.dtype.element_ty)
        if part == 1:
            tl.store(k_pages + slot * WIDTH + columns, kept)
        else:
            tl.store(v_pages + slot * WIDTH + columns, kept)


@triton.jit(do_not_specialize=["count"])
def _linear_kernel(
    x, weight, scales, bias, residual, out, k_pages, v_pages, slots, norm_weight, norm_bias, eps, count,
    X_ROW: tl.constexpr, K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    NORM: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, SCALED: tl.constexpr,
    PAGED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """K is at most five chunks of BLOCK_K. A program has all weights it needs on their way into registers before it waits."""
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
            x0, x1 = (
                _vector(x + row * X_ROW, K, 0, BLOCK_K),
                _vector(x + row * X_ROW, K, 1, BLOCK_K),
            )
            x2, x3 = (
                _vector(x + row * X_ROW, K, 2, BLOCK_K),
                _vector(x + row * X_ROW, K, 3, BLOCK_K),
            )
            x4 = _vector(x + row * X_ROW, K, 4, BLOCK_K)
            if NORM != "none":
                if NORM == "layer":
                    mean = tl.sum(((x0 + x1) + (x2 + x3)) + x4, 0) / K
                    x0, x1, x2 = (
                        _centered(x0, mean, K, 0),
                        _centered(x1, mean, K, 1),
                        _centered(x2, mean, K, 2),
                    )
                    x3, x4 = _centered(x3, mean, K, 3), _centered(x4, mean, K, 4)
                scale = tl.rsqrt(
                    tl.sum(((x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)) + x4 * x4, 0) / K + eps
                )
                x0 = _normed(x0, scale, g0, b0, NORM, x.dtype.element_ty)
                x1 = _normed(x1, scale, g1, b1, NORM, x.dtype.element_ty)
                x2 = _normed(x2, scale, g2, b2, NORM, x.dtype.element_ty)
                x3 = _normed(x3, scale, g3, b3, NORM, x.dtype.element_ty)
                x4 = _normed(x4, scale, g4, b4, NORM, x.dtype.element_ty)
            sums = x0[None, :] * w0.to(tl.float32)
            if BLOCK_K < K:
                sums += x1[None, :] * w1.to(tl.float32)
            if 2 * BLOCK_K < K:
                sums += x2[None, :] * w2.to(tl.float32)
            if 3 * BLOCK_K < K:
                sums += x3[None, :] * w3.to(tl.float32)
            if 4 * BLOCK_K < K:
                sums += x4[None, :] * w4.to(tl.float32)
            # Each part is rounded as it is where it is a kernel of its own.
            found = tl.sum(sums, 1)
            if SCALED:
                found *= scale_of
            found = (found + shift).to(out.dtype.element_ty)
            if KIND != "none":
                found = activate(found.to(tl.float32), KIND).to(out.dtype.element_ty)
            if ADD:
                found += tl.load(residual + row * N + outputs)
            if PAGED:
                _store_paged(
                    found,
                    out,
                    k_pages,
                    v_pages,
                    tl.load(slots + row).to(tl.int64),
                    row,
                    outputs,
                    N // 3,
                )
            else:
                tl.store(out + row * N + outputs, found)


def chunk(inputs: int) -> int:
    """The smallest power of two, 128 at least, of which `inputs` are at most five; 0 where there is none."""
    sizes = (1 << power for power in range(7, 13))
    return next((size for size in sizes if inputs % size == 0 and inputs <= MOST_CHUNKS * size), 0)


def fits(inputs: int, outputs: int) -> bool:
    """Sizes that the kernel has no rest for."""
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
    """`residual + activation(norm(x) @ weight.T + bias)` [rows, outputs] for `x` [rows, inputs] of sizes that `fits`.

    With `pages`, outputs are queries, keys and values; what comes back is the queries.

    `scales` [outputs, 1] of an int8 weight. `norm`: weight, bias (None: RMSNorm) and epsilon. `residual` [rows, outputs], contiguous.
    """
    rows, inputs = x.shape
    outputs = len(weight)
    out = torch.empty(
        (rows, outputs if pages is None else outputs // 3), dtype=x.dtype, device=x.device
    )
    k_pages, v_pages, slots = pages or (out, out, out)
    gain, shift, eps = norm or (x, x, 0.0)
    _linear_kernel[(outputs // BLOCK_N,)](
        x, weight, _or(scales, x), _or(bias, x), _or(residual, x), out, k_pages, v_pages, slots, gain, _or(shift, gain), eps, rows,
        X_ROW=x.stride(0), K=inputs, N=outputs, ROWS=1 if rows == 1 else SMALL_BATCH, BLOCK_N=BLOCK_N, BLOCK_K=chunk(inputs),
        NORM="none" if norm is None else "rms" if shift is None else "layer", KIND=activation or "none",
        BIAS=bias is not None, ADD=residual is not None, SCALED=scales is not None, PAGED=pages is not None, num_warps=BLOCK_N, **overlapped(x.device),
    )  # fmt: skip
    return out


def _or(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """A kernel's parameter that its constants say is not read needs some tensor all the same."""
    return other if tensor is None else tensor
