"""Triton kernels for what lies between matrix products: residual sum with the next norm, and activations. Each reads its inputs
once; a block of a transformer is bound by memory there."""

import torch
import triton
import triton.language as tl


@triton.jit
def _add_norm_kernel(
    x, delta, weight, bias, total, out, eps, width, x_row, delta_row,
    BLOCK: tl.constexpr, ADD: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
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
        normed = (value * scale).to(out.dtype.element_ty) * tl.load(weight + at, mask=inside, other=0.0)
    tl.store(out + row * width + at, normed.to(out.dtype.element_ty), mask=inside)


def add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + delta` and its norm, both [tokens, hidden]. LayerNorm with a `bias`, RMSNorm without. No `delta`: x itself."""
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    total = x if delta is None else torch.empty_like(out)
    block = triton.next_power_of_2(width)
    _add_norm_kernel[(rows,)](
        x, delta if delta is not None else x, weight, bias if bias is not None else weight, total, out, eps, width,
        x.stride(0), delta.stride(0) if delta is not None else 0,
        BLOCK=block, ADD=delta is not None, MEAN=bias is not None, num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip
    return total, out


@triton.jit
def _activate(x, KIND: tl.constexpr):
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
def _activation_kernel(x, gate, out, width, x_row, gate_row, BLOCK: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    found = _activate(tl.load(x + row * x_row + at, mask=inside, other=0.0).to(tl.float32), KIND)
    if GATED:
        found = found.to(out.dtype.element_ty) * tl.load(gate + row * gate_row + at, mask=inside, other=0.0)
    tl.store(out + row * width + at, found.to(out.dtype.element_ty), mask=inside)


def activation(kind: str, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
    """`kind` of x, times `gate` where there is one; [tokens, features], rows contiguous. relu, silu, gelu or gelu_tanh."""
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    block = min(2048, triton.next_power_of_2(width))
    _activation_kernel[(rows, triton.cdiv(width, block))](
        x, gate if gate is not None else x, out, width, x.stride(0), gate.stride(0) if gate is not None else 0,
        BLOCK=block, KIND=kind, GATED=gate is not None, num_warps=4,
    )  # fmt: skip
    return out
