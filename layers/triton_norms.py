"""Triton kernels for what lies between matrix products: residual sum with the next norm, and activations. Each reads its inputs
once; a block of a transformer is bound by memory there."""

import torch
import triton
import triton.language as tl

from antiphon.layers.float8 import FLOAT8, FLOAT8_MAX
from antiphon.layers.triton_launch import overlapped, wait_for_previous

LARGEST = tl.constexpr(FLOAT8_MAX)


@triton.jit
def saturated(x):
    return tl.minimum(tl.maximum(x, -LARGEST), LARGEST)


@triton.jit
def _store_row(value, out, scales, row, at, inside, width, QUANTISE: tl.constexpr):
    """A whole row, as it is or as float8 with the scale that makes its largest element the largest float8."""
    if QUANTISE:
        largest = tl.max(tl.abs(tl.where(inside, value.to(tl.float32), 0.0)), 0)
        scale = tl.maximum(largest, 1e-12) / LARGEST
        tl.store(scales + row, scale)
        scaled = saturated(value.to(tl.float32) / scale)
        tl.store(out + row * width + at, scaled.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(out + row * width + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm_kernel(
    x, delta, weight, bias, total, out, scales, eps, width, x_row, delta_row,
    BLOCK: tl.constexpr, ADD: tl.constexpr, MEAN: tl.constexpr, QUANTISE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * x_row + at, mask=inside, other=0.0)
    if ADD:
        value = value + tl.load(delta + row * delta_row + at, mask=inside, other=0.0)
        tl.store(total + row * width + at, value, mask=inside)
    value = value.to(tl.float32)  # of the rounded sum, as it is stored
    if MEAN:  # LayerNorm
        centred = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
        scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
        gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
        normed = centred * scale * gain + tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    else:  # RMSNorm, rounded before the gain as T5 has it
        scale = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
        normed = (value * scale).to(x.dtype.element_ty) * tl.load(weight + at, mask=inside, other=0.0)
    _store_row(normed, out, scales, row, at, inside, width, QUANTISE)


def add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + delta` and its norm, both [tokens, hidden]. LayerNorm with a `bias`, RMSNorm without. No `delta`: x itself."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _add_norm(x, delta, weight, bias, eps, out, None), out


def add_norm_quantised(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `add_norm`; the norm as float8 rows and their scales [tokens, 1]."""
    out, scales = _float8_rows(x)
    return _add_norm(x, delta, weight, bias, eps, out, scales), out, scales


def _add_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
    scales: torch.Tensor | None,
) -> torch.Tensor:
    rows, width = x.shape
    total = x if delta is None else torch.empty((rows, width), dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(width)
    _add_norm_kernel[(rows,)](
        x, delta if delta is not None else x, weight, bias if bias is not None else weight, total, out,
        scales if scales is not None else out, eps, width, x.stride(0), delta.stride(0) if delta is not None else 0,
        BLOCK=block, ADD=delta is not None, MEAN=bias is not None, QUANTISE=scales is not None,
        num_warps=4 if block <= 2048 else 8, **overlapped(x.device),
    )  # fmt: skip
    return total


def _float8_rows(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.empty(like.shape, dtype=FLOAT8, device=like.device)
    return values, torch.empty((len(like), 1), dtype=torch.float32, device=like.device)


@triton.jit
def _quantise_kernel(x, out, scales, width, x_row, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * x_row + at, mask=inside, other=0.0)
    _store_row(value, out, scales, row, at, inside, width, True)


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, features] as float8 rows and their scales [tokens, 1]."""
    out, scales = _float8_rows(x)
    block = triton.next_power_of_2(x.shape[1])
    _quantise_kernel[(len(x),)](
        x, out, scales, x.shape[1], x.stride(0), BLOCK=block, num_warps=4 if block <= 2048 else 8, **overlapped(x.device)
    )
    return out, scales


@triton.jit
def activate(x, KIND: tl.constexpr):
    if KIND == "relu":
        found = tl.maximum(x, 0.0)
    elif KIND == "silu":
        found = x / (1.0 + tl.exp(-x))
    elif KIND == "gelu_tanh":
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        found = x / (1.0 + tl.exp(-2.0 * inner))  # (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))
    else:  # gelu, by erf as in Abramowitz and Stegun (1964), 7.1.26: within 1.5e-7
        z = tl.abs(x) * 0.7071067811865476
        t = 1.0 / (1.0 + 0.3275911 * z)
        series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        tail = 0.5 * series * tl.exp(-z * z)  # the normal distribution beyond |x|
        found = x * tl.where(x < 0, tail, 1.0 - tail)
    return found


@triton.jit
def _activated(x, gate, row, at, inside, x_row, gate_row, KIND: tl.constexpr, GATED: tl.constexpr):
    found = activate(tl.load(x + row * x_row + at, mask=inside, other=0.0).to(tl.float32), KIND).to(x.dtype.element_ty)
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
    WHOLE: tl.constexpr, REST: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """A row as one power of two and a smaller one (5120 = 4096 + 1024): padding it to one would waste lanes."""
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WHOLE)
    found = _activated(x, gate, row, at, at < width, x_row, gate_row, KIND, GATED).to(tl.float32)
    largest = tl.max(tl.abs(found), 0)
    if REST > 0:
        rest_at = WHOLE + tl.arange(0, REST)
        rest = _activated(x, gate, row, rest_at, rest_at < width, x_row, gate_row, KIND, GATED).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(rest), 0))
    scale = tl.maximum(largest, 1e-12) / LARGEST
    tl.store(scales + row, scale)
    inverse = 1.0 / scale
    tl.store(out + row * width + at, saturated(found * inverse).to(out.dtype.element_ty), mask=at < width)
    if REST > 0:
        tl.store(out + row * width + rest_at, saturated(rest * inverse).to(out.dtype.element_ty), mask=rest_at < width)


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


def activation_quantised(kind: str, x: torch.Tensor, gate: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """As `activation`, as float8 rows and their scales [tokens, 1]; a row is one program's."""
    out, scales = _float8_rows(x)
    rows, width = x.shape
    whole = 1 << (width.bit_length() - 1)
    rest = triton.next_power_of_2(width - whole) if width > whole else 0
    _activation_float8_kernel[(rows,)](
        x, gate if gate is not None else x, out, scales, width, x.stride(0), gate.stride(0) if gate is not None else 0,
        WHOLE=whole, REST=rest, KIND=kind, GATED=gate is not None, num_warps=8, **overlapped(x.device),
    )  # fmt: skip
    return out, scales
