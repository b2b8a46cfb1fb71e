"""Triton kernels between matrix products: residual sum with the next norm, and activations.

Between products a transformer block is bound by memory: every kernel reads its inputs
once. Norms and float8 rows take a row as two parts, powers of two both (1280 = 1024 +
256): padding the row to one power of two would leave lanes idle.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import FLOAT8, FLOAT8_MAX
from antiphon.kernels.launch import overlapped, wait_for_previous

LARGEST = tl.constexpr(FLOAT8_MAX)


@triton.jit
def saturated(x):
    """`x` within the range of float8."""
    return tl.minimum(tl.maximum(x, -LARGEST), LARGEST)


@triton.jit
def as_page_type(x, dtype: tl.constexpr):
    """`x` in the type of the KV pages. float8 saturates, because its overflow is NaN."""
    if dtype == tl.float8e4nv:
        x = saturated(x.to(tl.float32))
    return x.to(dtype)


@triton.jit
def normed_row(
    a, b, gain_a, gain_b, bias, cols_a, cols_b, eps, width, TYPE: tl.constexpr, MEAN: tl.constexpr
):
    """The norm of both parts of a row, which is rounded to TYPE. `b` is zero beyond the row."""
    a, b, inside = a.to(tl.float32), b.to(tl.float32), cols_b < width
    if MEAN:  # LayerNorm
        mean = (tl.sum(a, 0) + tl.sum(b, 0)) / width
        a, b = a - mean, tl.where(inside, b - mean, 0.0)
    scale = tl.rsqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / width + eps)
    if MEAN:
        a = a * scale * gain_a.to(tl.float32)
        a += tl.load(bias + cols_a).to(tl.float32)
        b = b * scale * gain_b.to(tl.float32)
        b += tl.load(bias + cols_b, mask=inside, other=0.0).to(tl.float32)
    else:  # RMSNorm, rounded before the gain as in T5
        a = (a * scale).to(TYPE) * gain_a
        b = (b * scale).to(TYPE) * gain_b
    return a, b


@triton.jit
def store_row(a, b, out, scales, row, cols_a, cols_b, width, QUANTIZE: tl.constexpr):
    """Stores both parts of a row. If QUANTIZE, as float8 with a scale.

    The scale makes the largest element the largest float8. `b` is zero beyond the row.
    """
    if QUANTIZE:
        a, b = a.to(tl.float32), b.to(tl.float32)
        scale = tl.maximum(tl.maximum(tl.max(tl.abs(a), 0), tl.max(tl.abs(b), 0)), 1e-12) / LARGEST
        tl.store(scales + row, scale)
        inverse = 1.0 / scale
        a, b = saturated(a * inverse), saturated(b * inverse)
    tl.store(out + row * width + cols_a, a.to(out.dtype.element_ty))
    tl.store(out + row * width + cols_b, b.to(out.dtype.element_ty), mask=cols_b < width)


@triton.jit
def _add_norm_kernel(
    x, terms, terms_bias, weight, bias, total, out, scales,
    eps, width, x_row, row_stride, term_stride,
    FIRST: tl.constexpr, REST: tl.constexpr, TERMS: tl.constexpr, BIASED: tl.constexpr,
    MEAN: tl.constexpr, QUANTIZE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Adds TERMS rows of `terms` [terms, rows, width], 0 to 4, and `terms_bias` if BIASED."""
    cols_a, cols_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    inside = cols_b < width
    gain_a, gain_b = tl.load(weight + cols_a), tl.load(weight + cols_b, mask=inside, other=0.0)
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    a, b = (
        tl.load(x + row * x_row + cols_a),
        tl.load(x + row * x_row + cols_b, mask=inside, other=0.0),
    )
    if TERMS > 0:
        sum_a, sum_b = tl.zeros([FIRST], tl.float32), tl.zeros([REST], tl.float32)
        for i in tl.static_range(TERMS):
            term = terms + i * term_stride + row * row_stride
            sum_a += tl.load(term + cols_a)
            sum_b += tl.load(term + cols_b, mask=inside, other=0.0)
        if BIASED:
            sum_a += tl.load(terms_bias + cols_a)
            sum_b += tl.load(terms_bias + cols_b, mask=inside, other=0.0)
        a += sum_a.to(a.dtype)
        b += sum_b.to(b.dtype)
        tl.store(total + row * width + cols_a, a)
        tl.store(total + row * width + cols_b, b, mask=inside)
    a, b = normed_row(
        a, b, gain_a, gain_b, bias, cols_a, cols_b, eps, width, x.dtype.element_ty, MEAN
    )
    store_row(a, b, out, scales, row, cols_a, cols_b, width, QUANTIZE)


def row_parts(width: int, reductions: int = 1) -> dict[str, int]:
    """The parts of a row as a kernel's constants, and its warps, for a number of sums over a row.

    No more warps than the row's registers need: then a multiprocessor has many rows in
    flight. Warps wait for each other at every sum.
    """
    first = triton.next_power_of_2(width) // 2
    warps = 1 if reductions > 2 and width <= 2048 else 4 if width <= 8192 else 8
    return {"FIRST": first, "REST": triton.next_power_of_2(width - first), "num_warps": warps}


def add_norm(
    x: torch.Tensor,
    terms: torch.Tensor | None,
    terms_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + terms.sum(0) + terms_bias` and its norm, both [tokens, hidden].

    `terms` [terms, tokens, hidden], or None to add nothing; `terms_bias` [hidden].
    `weight` and `bias` [hidden] are the norm's: LayerNorm with a bias, RMSNorm without.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _add_norm(x, terms, terms_bias, weight, bias, eps, out, None), out


def add_norm_quantized(
    x: torch.Tensor,
    terms: torch.Tensor | None,
    terms_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `add_norm`, with the norm as float8 rows [tokens, hidden] and scales [tokens, 1]."""
    out, scales = float8_rows(x)
    return _add_norm(x, terms, terms_bias, weight, bias, eps, out, scales), out, scales


def _add_norm(
    x: torch.Tensor,
    terms: torch.Tensor | None,
    terms_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
    scales: torch.Tensor | None,
) -> torch.Tensor:
    rows, width = x.shape
    total = x if terms is None else torch.empty((rows, width), dtype=x.dtype, device=x.device)
    count = 0 if terms is None else len(terms)
    added = x[None] if terms is None else terms  # not read where nothing is added
    _add_norm_kernel[(rows,)](
        x, added, weight if terms_bias is None else terms_bias, weight,
        weight if bias is None else bias, total, out, out if scales is None else scales,
        eps, width, x.stride(0), added.stride(1), added.stride(0),
        TERMS=count, BIASED=terms_bias is not None, MEAN=bias is not None,
        QUANTIZE=scales is not None,
        **row_parts(width, 2 + (scales is not None)), **overlapped(x.device),
    )  # fmt: skip
    return total


def float8_rows(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.empty(like.shape, dtype=FLOAT8, device=like.device)
    return values, torch.empty((len(like), 1), dtype=torch.float32, device=like.device)


@triton.jit
def _quantize_kernel(
    x, out, scales, width, x_row, FIRST: tl.constexpr, REST: tl.constexpr, OVERLAP: tl.constexpr
):
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    cols_a, cols_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    a = tl.load(x + row * x_row + cols_a)
    b = tl.load(x + row * x_row + cols_b, mask=cols_b < width, other=0.0)
    store_row(a, b, out, scales, row, cols_a, cols_b, width, True)


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, features] as float8 rows and their scales [tokens, 1]."""
    out, scales = float8_rows(x)
    _quantize_kernel[(len(x),)](
        x, out, scales, x.shape[1], x.stride(0), **row_parts(x.shape[1]), **overlapped(x.device)
    )
    return out, scales


@triton.jit
def activate(x, KIND: tl.constexpr, COARSE: tl.constexpr = False):
    """The activation KIND of `x` float32.

    COARSE: the hardware's tanh, right to 11 bits: one instruction of a scarce unit instead of two.
    """
    if KIND == "relu":
        activated = tl.maximum(x, 0.0)
    elif KIND == "silu":
        activated = x / (1.0 + tl.exp(-x))
    elif KIND == "gelu_sigmoid":
        activated = x / (1.0 + tl.exp(-1.702 * x))
    elif KIND == "gelu_tanh":
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        if COARSE:
            tanh = tl.inline_asm_elementwise(
                "tanh.approx.f32 $0, $1;", "=f,f", [inner], tl.float32, is_pure=True, pack=1
            )
            activated = 0.5 * x * (1.0 + tanh)
        else:
            activated = x / (1.0 + tl.exp(-2.0 * inner))  # (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))
    else:  # gelu, by erf as in Abramowitz and Stegun (1964), 7.1.26: within 1.5e-7
        z = tl.abs(x) * 0.7071067811865476
        t = 1.0 / (1.0 + 0.3275911 * z)
        series = t * (
            0.254829592
            + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
        )
        tail = 0.5 * series * tl.exp(-z * z)  # the normal distribution beyond |x|
        activated = x * tl.where(x < 0, tail, 1.0 - tail)
    return activated


@triton.jit
def _activated(
    x, gate, row, cols, inside, x_row, gate_row,
    KIND: tl.constexpr, GATED: tl.constexpr, COARSE: tl.constexpr = False,
):  # fmt: skip
    """Columns of a row of `x`, activated, times those of `gate` if GATED."""
    values = tl.load(x + row * x_row + cols, mask=inside, other=0.0).to(tl.float32)
    activated = activate(values, KIND, COARSE).to(x.dtype.element_ty)
    if GATED:
        activated = activated * tl.load(gate + row * gate_row + cols, mask=inside, other=0.0)
    return activated


@triton.jit
def _activation_kernel(
    x, gate, out, width, x_row, gate_row,
    BLOCK: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    activated = _activated(x, gate, row, cols, inside, x_row, gate_row, KIND, GATED)
    tl.store(out + row * width + cols, activated.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _activation_float8_kernel(
    x, gate, out, scales, width, x_row, gate_row,
    FIRST: tl.constexpr, REST: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    wait_for_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    cols_a, cols_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    # COARSE where the hardware can: float8 has 4 bits.
    first = cols_a < FIRST
    a = _activated(x, gate, row, cols_a, first, x_row, gate_row, KIND, GATED, COARSE=OVERLAP)
    rest = cols_b < width
    b = _activated(x, gate, row, cols_b, rest, x_row, gate_row, KIND, GATED, COARSE=OVERLAP)
    store_row(a, b, out, scales, row, cols_a, cols_b, width, True)


def activation(kind: str, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
    """The activation `kind` of `x`, times `gate` where one is given; [tokens, features].

    Rows are contiguous. `kind` is relu, silu, gelu, gelu_tanh or gelu_sigmoid.
    """
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    block = min(2048, triton.next_power_of_2(width))
    _activation_kernel[(rows, triton.cdiv(width, block))](
        x, x if gate is None else gate, out, width, x.stride(0),
        0 if gate is None else gate.stride(0),
        BLOCK=block, KIND=kind, GATED=gate is not None, num_warps=4, **overlapped(x.device),
    )  # fmt: skip
    return out


def activation_quantized(
    kind: str, x: torch.Tensor, gate: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `activation`, as float8 rows [tokens, features] and their scales [tokens, 1]."""
    out, scales = float8_rows(x)
    rows, width = x.shape
    _activation_float8_kernel[(rows,)](
        x, x if gate is None else gate, out, scales, width, x.stride(0),
        0 if gate is None else gate.stride(0),
        KIND=kind, GATED=gate is not None, **row_parts(width), **overlapped(x.device),
    )  # fmt: skip
    return out, scales
