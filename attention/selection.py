"""Selects an attention backend for one half: called once, before any weight is loaded.

`auto` takes the first backend of the device's order that supports every kind the half needs. An
explicit choice is used exactly, or refused with the reason and the valid choices.
"""

import logging
from typing import Literal

import torch

from antiphon.attention.interface import (
    AttentionBackend,
    AttentionSpec,
    FullAttention,
    PagedAttention,
)
from antiphon.attention.registry import BACKENDS, backend_row, in_place
from antiphon.attention.support import Support
from antiphon.config.errors import AttentionBackendError
from antiphon.kernels.formats import FLOAT8, FLOAT8_CAPABILITY

logger = logging.getLogger(__name__)

# The order in which `auto` tries backends, the fastest first as measured in benchmarks/results: by
# device type, and by batches of equal windows (full), texts of any lengths (ragged), or pages.
ORDER = {
    ("cpu", "full"): ("torch_sdpa",),
    ("cpu", "ragged"): ("torch_sdpa",),
    ("cpu", "paged"): ("cpu_paged", "torch_sdpa"),
    ("cuda", "full"): ("flashinfer", "triton", "torch_sdpa"),
    # Triton is as fast for short texts, and its graphs can be replayed for any lengths.
    ("cuda", "ragged"): ("triton", "flashinfer", "torch_sdpa"),
    ("cuda", "paged"): ("triton", "flashinfer", "torch_sdpa"),
}


def missing(name: str) -> str | None:
    """As `Row.missing`, of the backend `name`. Raises AttentionBackendError for an unknown name."""
    return backend_row(name).missing


def refusal(
    name: str, spec: AttentionSpec, capability: tuple[int, int] | None = None
) -> str | None:
    """Why backend `name` cannot serve `spec`, or None when it can.

    `capability`: of the CUDA device, when there is one.
    """
    return missing(name) or unsupported(name, spec, capability)


def unsupported(
    name: str, spec: AttentionSpec, capability: tuple[int, int] | None = None
) -> str | None:
    """As `refusal`, for a backend that is installed."""
    row = backend_row(name)
    support, reason = row.support(spec.kind), f"has no {spec.kind} attention"
    if support is not None:
        lack = _lack(support, spec, capability)
        if lack is None:
            return None
        reason = lack
    return f"{reason}{in_place(name, row)}"


def _lack(support: Support, spec: AttentionSpec, capability: tuple[int, int] | None) -> str | None:
    checks = (
        (spec.device.type in support.devices, f"does not run on {spec.device.type}"),
        (
            support.min_capability is None
            or capability is None
            or capability >= support.min_capability,
            f"needs compute capability {support.min_capability}, this device has {capability}",
        ),
        (
            support.max_capability is None
            or capability is None
            or capability <= support.max_capability,
            f"runs up to compute capability {support.max_capability}, this device has {capability}",
        ),
        (_short(spec.dtype) in support.dtypes, f"does not take {_short(spec.dtype)}"),
        (
            support.head_dims is None or spec.head_dim in support.head_dims,
            f"head size {spec.head_dim} is none of {_listed(support.head_dims)}",
        ),
        (
            spec.head_dim % support.head_dim_multiple == 0,
            f"head size {spec.head_dim} is not a multiple of {support.head_dim_multiple}",
        ),
        (
            support.max_head_dim is None or spec.head_dim <= support.max_head_dim,
            f"head size {spec.head_dim} is over {support.max_head_dim}",
        ),
        (support.bias or not spec.bias, "takes no additive position bias"),
        (support.window_bias or not spec.window_bias, "adds no bias to windows of an image"),
        (support.score_cap or spec.score_cap is None, "caps no scores of attention"),
        (
            support.grouped_heads or spec.num_kv_heads == spec.num_heads,
            f"takes no {spec.num_kv_heads} heads of keys and values for {spec.num_heads} of "
            "queries",
        ),
        (
            spec.page_size is None or spec.page_size % support.page_size_multiple == 0,
            f"page size {spec.page_size} is not a multiple of {support.page_size_multiple} "
            "(kv_page_size)",
        ),
        *(_float8_checks(support, spec, capability) if spec.kv_dtype == FLOAT8 else ()),
    )
    return next((reason for holds, reason in checks if not holds), None)


def _float8_checks(
    support: Support, spec: AttentionSpec, capability: tuple[int, int] | None
) -> list[tuple[bool, str]]:
    """What must hold for float8, and what is said where it does not."""
    is_full, multiple = spec.kind == "full", support.float8_head_dim_multiple
    lacking = "computes nothing in float8" if is_full else "keeps no float8 keys and values"
    return [
        (support.float8, lacking),
        (
            not is_full or not (spec.bias or spec.window_bias or spec.score_cap),
            "adds no bias and caps no scores in float8 (encoder_attention_dtype)",
        ),
        (
            spec.head_dim % multiple == 0,
            f"head size {spec.head_dim} is not a multiple of {multiple}, as float8 needs it",
        ),
        (
            capability is None or capability >= FLOAT8_CAPABILITY,
            f"float8 needs compute capability {FLOAT8_CAPABILITY}, this device has {capability}",
        ),
    ]


def _listed(sizes: frozenset[int] | None) -> str:
    return ", ".join(map(str, sorted(sizes or ())))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def choose(half: str, requested: str, specs: list[AttentionSpec]) -> str:
    """The name of the backend that serves every spec.

    `half` ('encoder' or 'decoder') is for messages. Raises AttentionBackendError for an explicit
    choice that can't, and where none can.
    """
    device = specs[0].device
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None

    def reason(name: str) -> str | None:
        return next((why for spec in specs if (why := refusal(name, spec, capability))), None)

    if requested == "auto":
        order = ORDER[device.type, _group(specs[0])]
        chosen = next((name for name in order if reason(name) is None), None)
        if chosen is None:
            reasons = "; ".join(f"{name}: {reason(name)}" for name in order)
            raise AttentionBackendError(f"no attention backend can serve this {half}: {reasons}")
        faster = [f"{name}: {reason(name)}" for name in order[: order.index(chosen)]]
        why_not_faster = f" (faster, but {'; '.join(faster)})" if faster else ""
        logger.info("%s attention: %s%s", half, chosen, why_not_faster)
        return chosen
    why = reason(requested)
    if why is not None:
        valid = ", ".join(name for name in BACKENDS if reason(name) is None)
        raise AttentionBackendError(
            f"{half}_attention_backend='{requested}' cannot be used: {why}. Valid here: {valid}"
        )
    return requested


def select_full(half: str, requested: str, spec: AttentionSpec) -> FullAttention[object]:
    """The backend that `choose` names, made for an encoder's `spec`."""
    return backend_row(choose(half, requested, [spec])).full_class()(spec)


def select_paged(
    half: str, requested: str, specs: list[AttentionSpec]
) -> list[PagedAttention[object]]:
    """One object per spec of a decoder, all of the backend that `choose` names."""
    row = backend_row(choose(half, requested, specs))
    return [row.paged_class(spec.kind)(spec) for spec in specs]


def _group(spec: AttentionSpec) -> str:
    """The second key of ORDER."""
    if spec.kind != "full":
        return "paged"
    return "ragged" if spec.ragged else "full"


def capturable(backend: AttentionBackend, lengths: Literal["same", "any"] = "any") -> bool:
    """Whether CUDA graphs can hold `backend`, for replays with the same lengths or with any."""
    return uncapturable(backend, lengths) is None


def uncapturable(backend: AttentionBackend, lengths: Literal["same", "any"] = "any") -> str | None:
    """Why no CUDA graph can hold what `backend` does, or None when one can; see `capturable`."""
    if backend.spec.device.type != "cuda":
        return f"there are no CUDA graphs on {backend.spec.device.type}"
    support = backend_row(backend.name).support(backend.spec.kind)
    if support is not None and support.graphs in ("any", lengths):
        return None
    return f"attention {backend.name} can't be replayed from CUDA graphs for {lengths} lengths"
