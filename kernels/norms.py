"""Triton kernels for what lies between matrix products: residual sum with the next norm, and activations. Each reads its inputs
once; a block of a transformer is bound by memory there.

Norms and float8 rows take a row as two parts, each a power of two (1280 = 1024 + 256): padding it to one would leave lanes idle.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import FLOAT8, FLOAT8_MAX
from antiphon.kernels.launch import overlapped, wait_for_previous

LARGEST = tl.constexpr(FLOAT8_MAX)


@triton.jit
def saturated(x):
    return tl.minimum(tl.maximum(x, -LARGEST), LARGEST)


@triton.jit
def as_kept(x, dtype: tl.constexpr):
    """`x` in the type of a pool of pages; float8 saturates, because its overflow is NaN."""
    if dtype == tl.float8e4nv:
        x = saturated(x.to(tl.float32))
    return x.to(dtype)


@triton.jit
def _store_row(a, b, out, scales, row, at_a, at_b, width, QUANTIZE: tl.constexpr):
    """Both parts of a row, as they are or as float8 with the scale that makes the largest element the largest float8. `b` is zero
    beyond the row."""
    if QUANTIZE:
        a, b = a.to(tl.float32), b.to(tl.float32)
        scale = tl.maximum(tl.maximum(tl.max(tl.abs(a), 0), tl.max(tl.abs(b), 0)), 1e-12) / LARGEST
        tl.store(scales + row, scale)
        inverse = 1.0 / scale
        a, b = saturated(a * inverse), saturated(b * inverse)
    tl.store(out + row * width + at_a, a.to(out.dtype.element_ty))
    tl.store(out + row * width + at_b, b.to(out.dtype.element_ty), mask=at_b < width)


@triton.jit
def _add_norm_kernel(
    x, delta, delta_bias, weight, bias, total, out, scales, eps, width, x_row, delta_row, delta_part,
    FIRST: tl.constexpr, REST: tl.constexpr, PARTS: tl.constexpr, BIASED: tl.constexpr, MEAN: tl.constexpr,
    QUANTIZE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """PARTS of `delta` [parts, rows, width] to add, 0 to 4, and `delta_bias` where it is BIASED."""
    at_a, at_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    inside = at_b < width
    gain_a, gain_b = tl.load(weight + at_a), tl.load(weight + at_b, mask=inside, other=0.0)
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    a, b = tl.load(x + row * x_row + at_a), tl.load(x + row * x_row + at_b, mask=inside, other=0.0)
    if PARTS > 0:
        more_a, more_b = tl.zeros([FIRST], tl.float32), tl.zeros([REST], tl.float32)
        for part in tl.static_range(PARTS):
            more = delta + part * delta_part + row * delta_row
            more_a += tl.load(more + at_a)
            more_b += tl.load(more + at_b, mask=inside, other=0.0)
        if BIASED:
            more_a += tl.load(delta_bias + at_a)
            more_b += tl.load(delta_bias + at_b, mask=inside, other=0.0)
        a += more_a.to(a.dtype)
        b += more_b.to(b.dtype)
        tl.store(total + row * width + at_a, a)
        tl.store(total + row * width + at_b, b, mask=inside)
    a, b = a.to(tl.float32), b.to(tl.float32)  # of the rounded sum, as it is stored
    if MEAN:  # LayerNorm
        mean = (tl.sum(a, 0) + tl.sum(b, 0)) / width
        a, b = a - mean, tl.where(inside, b - mean, 0.0)
    scale = tl.rsqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / width + eps)
    if MEAN:
        a = a * scale * gain_a.to(tl.float32) + tl.load(bias + at_a).to(tl.float32)
        b = b * scale * gain_b.to(tl.float32) + tl.load(bias + at_b, mask=inside, other=0.0).to(
            tl.float32
        )
    else:  # RMSNorm, rounded before the gain as T5 has it
        a, b = (
            (a * scale).to(x.dtype.element_ty) * gain_a,
            (b * scale).to(x.dtype.element_ty) * gain_b,
        )
    _store_row(a, b, out, scales, row, at_a, at_b, width, QUANTIZE)


def row_parts(width: int, reductions: int = 1) -> dict[str, int]:
    """The parts of a row, and warps for it: no more than its registers need, then a multiprocessor has many rows under way. Warps that
    must agree on several sums wait for each other."""
    first = triton.next_power_of_2(width) // 2
    warps = 1 if reductions > 2 and width <= 2048 else 4 if width <= 8192 else 8
    return {"FIRST": first, "REST": triton.next_power_of_2(width - first), "num_warps": warps}


def add_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + delta.sum(0) + delta_bias` and its norm, both [tokens, hidden].

    `delta` [parts, tokens, hidden]; None: nothing is added. LayerNorm with a `bias`, RMSNorm without.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _add_norm(x, delta, delta_bias, weight, bias, eps, out, None), out


def add_norm_quantized(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `add_norm`; the norm as float8 rows and their scales [tokens, 1]."""
    out, scales = _float8_rows(x)
    return _add_norm(x, delta, delta_bias, weight, bias, eps, out, scales), out, scales


def _add_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
    scales: torch.Tensor | None,
) -> torch.Tensor:
    rows, width = x.shape
    total = x if delta is None else torch.empty((rows, width), dtype=x.dtype, device=x.device)
    parts = 0 if delta is None else len(delta)
    more = x[None] if delta is None else delta
    _add_norm_kernel[(rows,)](
        x, more, weight if delta_bias is None else delta_bias, weight, weight if bias is None else bias, total, out,
        out if scales is None else scales, eps, width, x.stride(0), more.stride(1), more.stride(0),
        PARTS=parts, BIASED=delta_bias is not None, MEAN=bias is not None, QUANTIZE=scales is not None,
        **row_parts(width, 2 + (scales is not None)), **overlapped(x.device),
    )  # fmt: skip
    return total


def _float8_rows(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.empty(like.shape, dtype=FLOAT8, device=like.device)
    return values, torch.empty((len(like), 1), dtype=torch.float32, device=like.device)


@triton.jit
def _quantize_kernel(
    x, out, scales, width, x_row, FIRST: tl.constexpr, REST: tl.constexpr, OVERLAP: tl.constexpr
):
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    at_a, at_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    a, b = (
        tl.load(x + row * x_row + at_a),
        tl.load(x + row * x_row + at_b, mask=at_b < width, other=0.0),
    )
    _store_row(a, b, out, scales, row, at_a, at_b, width, True)


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, features] as float8 rows and their scales [tokens, 1]."""
    out, scales = _float8_rows(x)
    _quantize_kernel[(len(x),)](
        x, out, scales, x.shape[1], x.stride(0), **row_parts(x.shape[1]), **overlapped(x.device)
    )
    return out, scales


@triton.jit
def activate(x, KIND: tl.constexpr, COARSE: tl.constexpr = False):
    """COARSE: tanh as the hardware has it, right to 11 bits: one instruction of a scarce kind in place of two."""
    if KIND == "relu":
        found = tl.maximum(x, 0.0)
    elif KIND == "silu":
        found = x / (1.0 + tl.exp(-x))
    elif KIND == "gelu_tanh":
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        if COARSE:
            tanh = tl.inline_asm_elementwise(
                "tanh.approx.f32 $0, $1;", "=f,f", [inner], tl.float32, is_pure=True, pack=1
            )
            found = 0.5 * x * (1.0 + tanh)
        else:
            found = x / (1.0 + tl.exp(-2.0 * inner))  # (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))
    else:  # gelu, by erf as in Abramowitz and Stegun (1964), 7.1.26: within 1.5e-7
        z = tl.abs(x) * 0.7071067811865476
        t = 1.0 / (1.0 + 0.3275911 * z)
        series = t * (
            0.254829592
            + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
        )
        tail = 0.5 * series * tl.exp(-z * z)  # the normal distribution beyond |x|
        found = x * tl.where(x < 0, tail, 1.0 - tail)
    return found


@triton.jit
def _activated(
    x,
    gate,
    row,
    at,
    inside,
    x_row,
    gate_row,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    COARSE: tl.constexpr = False,
):
    found = activate(
        tl.load(x + row * x_row + at, mask=inside, other=0.0).to(tl.float32), KIND, COARSE
    ).to(x.dtype.element_ty)
    if GATED:
        found = found * tl.load(gate + row * gate_row + at, mask=inside, other=0.0)
    return found


@triton.jit
def _activation_kernel(
    x, gate, out, width, x_row, gate_row, BLOCK: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, OVERLAP: tl.constexpr
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    found = _activated(x, gate, row, at, inside, x_row, gate_row, KIND, GATED)
    tl.store(out + row * width + at, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _activation_float8_kernel(
    x, gate, out, scales, width, x_row, gate_row,
    FIRST: tl.constexpr, REST: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    at_a, at_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    a = _activated(
        x, gate, row, at_a, at_a < FIRST, x_row, gate_row, KIND, GATED, COARSE=OVERLAP
    )  # float8 has 4 bits
    b = _activated(x, gate, row, at_b, at_b < width, x_row, gate_row, KIND, GATED, COARSE=OVERLAP)
    _store_row(a, b, out, scales, row, at_a, at_b, width, True)


def activation(kind: str, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
    """`kind` of x, times `gate` where there is one; [tokens, features], rows contiguous. relu, silu, gelu or gelu_tanh."""
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    block = min(2048, triton.next_power_of_2(width))
    _activation_kernel[(rows, triton.cdiv(width, block))](
        x, gate if gate is not None else x, out, width, x.stride(0), gate.stride(0) if gate is not None else 0,
        BLOCK=block, KIND=kind, GATED=gate is not None, num_warps=4, **overlapped(x.device),
    )  # fmt: skip
    return out


def activation_quantized(
    kind: str, x: torch.Tensor, gate: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `activation`, as float8 rows and their scales [tokens, 1]."""
    out, scales = _float8_rows(x)
    rows, width = x.shape
    _activation_float8_kernel[(rows,)](
        x, gate if gate is not None else x, out, scales, width, x.stride(0), gate.stride(0) if gate is not None else 0,
        KIND=kind, GATED=gate is not None, **row_parts(width), **overlapped(x.device),
    )  # fmt: skip
    return out, scales
