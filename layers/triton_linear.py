"""Triton kernels for linear layers over few rows: a decoder step of a small batch.

There a linear layer is bound by reading its weights, a step by how many kernels it launches. So what lies around the product is done by
the same kernel: the norm of its input before, bias, activation and the residual sum behind. While the kernel before it still
runs, each program fetches its weights, which depend on nothing.

Two kernels. Up to four rows: weights go straight into registers and are multiplied there. Above: tensor cores, with the input
features split over programs that join themselves.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from antiphon.layers.triton_launch import overlapped, to_l2, wait_for_previous
from antiphon.layers.triton_norms import activate

MOST_ROWS = 64
MOST_VECTOR_ROWS = 4
MOST_CHUNKS = 5  # of the input features, in the kernel for the fewest rows
LINE = tl.constexpr(64)  # two-byte elements of a cache line


@triton.jit
def _prefetch(weight, first_row, first_column, row_size, ROWS: tl.constexpr, LINES: tl.constexpr):
    """ROWS rows of the weight, LINES (a power of two) cache lines each, into L2."""
    lines = (first_row + tl.arange(0, ROWS))[:, None] * row_size + first_column + tl.arange(0, LINES)[None, :] * LINE
    to_l2(weight + lines)


@triton.jit
def _finish(
    found, shift, residual, out, rows, columns, real, N: tl.constexpr, KIND: tl.constexpr, ADD: tl.constexpr
):  # fmt: skip
    """Bias, activation and residual sum, each rounded as it is where they are kernels of their own."""
    found = (found + shift[None, :]).to(out.dtype.element_ty)
    if KIND != "none":
        found = activate(found.to(tl.float32), KIND).to(out.dtype.element_ty)
    at = rows[:, None] * N + columns[None, :]
    if ADD:
        found += tl.load(residual + at, mask=real[:, None], other=0.0)
    tl.store(out + at, found, mask=real[:, None])


@triton.jit
def _bias(bias, columns, BIAS: tl.constexpr):
    return tl.load(bias + columns).to(tl.float32) if BIAS else columns.to(tl.float32) * 0.0


@triton.jit
def _weights(weight, outputs, K: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """A chunk of the weight's rows; where there is no such chunk the first again, which nobody uses."""
    columns = tl.arange(0, WIDTH) + (CHUNK * WIDTH if CHUNK * WIDTH < K else 0)
    return tl.load(weight + outputs[:, None] * K + columns[None, :])


@triton.jit
def _vector(values, K: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """A chunk of a row; zeros where there is none."""
    columns = tl.arange(0, WIDTH)
    return tl.load(values + CHUNK * WIDTH + columns).to(tl.float32) if CHUNK * WIDTH < K else columns.to(tl.float32) * 0.0


@triton.jit
def _centred(value, mean, K: tl.constexpr, CHUNK: tl.constexpr):
    return value - mean if CHUNK * value.shape[0] < K else value


@triton.jit
def _normed(centred, scale, gain, shift, NORM: tl.constexpr, TYPE: tl.constexpr):
    """A chunk, rounded as the norm alone would give it."""
    if NORM == "layer":
        return (centred * scale * gain + shift).to(TYPE).to(tl.float32)
    return ((centred * scale).to(TYPE).to(tl.float32) * gain).to(TYPE).to(tl.float32)


@triton.jit(do_not_specialize=["count"])
def _vector_kernel(
    x, weight, bias, residual, out, norm_weight, norm_bias, eps, count,
    X_ROW: tl.constexpr, K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    NORM: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """K is at most five chunks of BLOCK_K. A program has all weights it needs on their way into registers before it waits."""
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w0 = _weights(weight, outputs, K, 0, BLOCK_K)
    w1 = _weights(weight, outputs, K, 1, BLOCK_K)
    w2 = _weights(weight, outputs, K, 2, BLOCK_K)
    w3 = _weights(weight, outputs, K, 3, BLOCK_K)
    w4 = _weights(weight, outputs, K, 4, BLOCK_K)
    shift = _bias(bias, outputs, BIAS)
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
            x0, x1 = _vector(x + row * X_ROW, K, 0, BLOCK_K), _vector(x + row * X_ROW, K, 1, BLOCK_K)
            x2, x3 = _vector(x + row * X_ROW, K, 2, BLOCK_K), _vector(x + row * X_ROW, K, 3, BLOCK_K)
            x4 = _vector(x + row * X_ROW, K, 4, BLOCK_K)
            if NORM != "none":
                if NORM == "layer":
                    mean = tl.sum(((x0 + x1) + (x2 + x3)) + x4, 0) / K
                    x0, x1, x2 = _centred(x0, mean, K, 0), _centred(x1, mean, K, 1), _centred(x2, mean, K, 2)
                    x3, x4 = _centred(x3, mean, K, 3), _centred(x4, mean, K, 4)
                scale = tl.rsqrt(tl.sum(((x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)) + x4 * x4, 0) / K + eps)
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
            here = row + tl.arange(0, 1)
            _finish(tl.sum(sums, 1)[None, :], shift, residual, out, here, outputs, here < count, N, KIND, ADD)


@triton.jit(do_not_specialize=["count"])
def _matrix_kernel(
    x, weight, bias, residual, out, partial, arrivals, count,
    X_ROW: tl.constexpr, K: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    first, split = tl.program_id(0) * BLOCK_N, tl.program_id(1)
    SPLIT: tl.constexpr = K // SPLITS
    if OVERLAP:
        for block in tl.static_range(SPLIT // BLOCK_K):
            _prefetch(weight, first, split * SPLIT + block * BLOCK_K, K, BLOCK_N, BLOCK_K // LINE)
    wait_for_previous(OVERLAP)
    rows = tl.arange(0, ROWS)
    real = rows < count
    columns = split * SPLIT + tl.arange(0, BLOCK_K)
    outputs = first + tl.arange(0, BLOCK_N)
    shift = _bias(bias, outputs, BIAS)
    sums = tl.zeros([ROWS, BLOCK_N], tl.float32)
    for start in range(0, SPLIT, BLOCK_K):
        at = start + columns
        weights = tl.load(weight + outputs[None, :] * K + at[:, None])
        value = tl.load(x + (rows * X_ROW)[:, None] + at[None, :], mask=real[:, None], other=0.0)
        sums = tl.dot(value, weights, sums, input_precision="ieee")
    if SPLITS == 1:
        _finish(sums, shift, residual, out, rows, outputs, real, N, KIND, ADD)
    else:  # whichever program of these outputs ends last joins them
        at = rows[:, None] * N + outputs[None, :]
        tl.store(partial + split * ROWS * N + at, sums)
        tl.debug_barrier()  # every thread has written its part before this program counts as arrived
        if tl.atomic_add(arrivals + tl.program_id(0), 1, sem="acq_rel") == SPLITS - 1:
            tl.store(arrivals + tl.program_id(0), 0)  # ready for the next launch
            sums = sums * 0.0
            for i in tl.static_range(SPLITS):
                sums += tl.load(partial + i * ROWS * N + at)
            _finish(sums, shift, residual, out, rows, outputs, real, N, KIND, ADD)


@dataclass(frozen=True)
class Tiling:
    """How a layer's outputs and input features are cut up among programs."""

    block_n: int
    block_k: int
    splits: int
    warps: int
    stages: int

    @classmethod
    def choose(cls, rows: int, inputs: int, outputs: int) -> "Tiling":
        """Enough programs to keep a device reading; measured on an H200."""
        if rows <= MOST_VECTOR_ROWS:
            return cls(block_n=4, block_k=chunk(inputs), splits=1, warps=4, stages=1)
        block_n, splits = 16 if rows <= 16 else 32, 1
        while splits < 8 and outputs // block_n * splits < 128 and inputs % (splits * 2 * 128) == 0:
            splits *= 2
        return cls(block_n, block_k=128, splits=splits, warps=4, stages=4)


class Workspace:
    """What split layers leave for the program that joins them; for layers that run one after the other on one stream."""

    MOST_SPLITS = 8

    def __init__(self, most_outputs: int, device: torch.device) -> None:
        self.partial = torch.empty(self.MOST_SPLITS * MOST_ROWS * most_outputs, dtype=torch.float32, device=device)
        self.arrivals = torch.zeros(most_outputs // 16, dtype=torch.int32, device=device)  # zero between launches


def chunk(inputs: int) -> int:
    """The smallest power of two, 128 at least, of which `inputs` are at most five; 0 where there is none."""
    sizes = (1 << power for power in range(7, 13))
    return next((size for size in sizes if inputs % size == 0 and inputs <= MOST_CHUNKS * size), 0)


def fits(inputs: int, outputs: int) -> bool:
    """Sizes that the kernels have no rest for."""
    return chunk(inputs) > 0 and outputs % 64 == 0


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    workspace: Workspace,
    *,
    norm: tuple[torch.Tensor, torch.Tensor | None, float] | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    tiling: Tiling | None = None,
) -> torch.Tensor:
    """`residual + activation(norm(x) @ weight.T + bias)` [rows, outputs] for `x` [rows, inputs], at most MOST_ROWS rows.

    `norm`: weight, bias (None: RMSNorm) and epsilon. `residual` [rows, outputs], contiguous.
    """
    count, inputs = x.shape
    outputs = len(weight)
    out = torch.empty((count, outputs), dtype=x.dtype, device=x.device)
    tiling = tiling or Tiling.choose(count, inputs, outputs)
    pointers = (x, weight, _or(bias, weight), _or(residual, x), out)
    rows = triton.next_power_of_2(count)
    options = dict(
        X_ROW=x.stride(0), K=inputs, N=outputs, BLOCK_N=tiling.block_n, BLOCK_K=tiling.block_k, KIND=activation or "none",
        BIAS=bias is not None, ADD=residual is not None, num_warps=tiling.warps, num_stages=tiling.stages, **overlapped(x.device),
    )  # fmt: skip
    if rows <= MOST_VECTOR_ROWS:
        gain, shift, eps = norm or (x, x, 0.0)
        kind = "none" if norm is None else "rms" if shift is None else "layer"
        _vector_kernel[(outputs // tiling.block_n,)](*pointers, gain, _or(shift, gain), eps, count, ROWS=rows, NORM=kind, **options)
    else:
        assert norm is None, "only the fewest rows are normed here"
        _matrix_kernel[(outputs // tiling.block_n, tiling.splits)](
            *pointers, workspace.partial, workspace.arrivals, count, ROWS=max(16, rows), SPLITS=tiling.splits, **options
        )
    return out


def _or(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """A kernel's parameter that its constants say is not read needs some tensor all the same."""
    return other if tensor is None else tensor
