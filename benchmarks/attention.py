"""Attention kernels: every usable backend, by sequences, tokens and head size.

Each time stands beside the machine's limit: matmul rate for full attention, copy rate for decodes.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from antiphon.attention.interface import AttentionSpec, FullBatch, PagedAttention, PagedBatch
from antiphon.attention.registry import BACKENDS, backend_row
from antiphon.attention.selection import capturable, refusal
from antiphon.benchmarks.machine import Machine, seconds, seconds_in_graph
from antiphon.benchmarks.report import Row
from antiphon.config.arithmetic import ceil_div
from antiphon.kernels.formats import FLOAT8

HIDDEN = 1280  # heads times head size, where nobody gives the heads
ROTATED = 1 << 30  # bytes of keys and values that a paged measurement reads: beyond any cache


class Sizes(NamedTuple):
    """`batches`: sequences. `tokens`: of each. `heads`: None: as many as fill `HIDDEN`. `decodes`:
    those of a decoder are measured, too."""

    batches: list[int]
    tokens: list[int]
    head_sizes: list[int]
    heads: int | None = None
    decodes: bool = True


PRESETS = {
    "all": Sizes([1, 2, 16], [512, 1500, 4096], [64, 72, 80, 128]),
    "vit": Sizes([1, 2], [1024, 2048, 4096], [64, 80], heads=16, decodes=False),
}


def full(machine: Machine, sizes: Sizes, dtype: torch.dtype) -> list[Row]:
    """Encoder attention over batches x tokens x head sizes, in `dtype`."""
    rows: list[Row] = []
    for batch, length, size in product(sizes.batches, sizes.tokens, sizes.head_sizes):
        rows += _full(machine, batch, length, sizes.heads or HIDDEN // size, size, dtype)
    return rows


def _full(
    machine: Machine, batch: int, length: int, heads: int, size: int, dtype: torch.dtype
) -> list[Row]:
    """One row for each backend, and for each with float8."""
    rows: list[Row] = []
    spec = AttentionSpec("full", heads, heads, size, size**-0.5, dtype, torch.device("cuda"))
    q, k, v = torch.randn(batch * length, 3 * heads, size, device="cuda", dtype=dtype).split(
        heads, 1
    )
    lengths = FullBatch.of(np.full(batch, length), spec.device)
    operations = 4 * batch * heads * length**2 * size
    case = {"kind": "full", "batch": batch, "tokens": length, "heads": heads, "head_size": size}
    of_float8 = replace(spec, kv_dtype=FLOAT8)
    named = [(name, spec) for name in _usable(spec)]
    # torch's form of it is no kernel.
    named += [(name, of_float8) for name in _usable(of_float8) if name != "torch_sdpa"]
    for name, own in named:
        backend = backend_row(name).full_class()(own)
        took = seconds(partial(backend.run, q, k, v, backend.plan(lengths)), 40)
        rate = operations / took
        rows.append(
            {
                **case,
                "backend": name if own is spec else f"{name}, fp8",
                "us": took * 1e6,
                "TFLOP/s": rate / 1e12,
                "of_matmul_%": 100 * rate / machine.bf16_flops_per_second,
            }
        )
    return rows


def paged(machine: Machine, sizes: Sizes, dtype: torch.dtype) -> list[Row]:
    """Decode steps over cross KV, in the model's dtype and in float8. Pages have 16 tokens, or 256
    for `flash_attn`, which needs them."""
    rows = []
    cases = product(sizes.batches, sizes.tokens, sizes.head_sizes, (None, FLOAT8))
    for batch, length, size, kv in cases:
        heads = HIDDEN // size
        for page_size in (16, 256):
            spec = AttentionSpec(
                "cross", heads, heads, size, size**-0.5, dtype, torch.device("cuda"),
                page_size=page_size, kv_dtype=kv,
            )  # fmt: skip
            backends = {
                name: backend_row(name).paged_class(spec.kind)(spec)
                for name in _usable(spec)
                if (name == "flash_attn") == (page_size == 256)
            }
            usable = {name: item for name, item in backends.items() if capturable(item)}
            if not usable:
                continue
            pools, q, lengths = _paged_problem(spec, batch, length)
            read = 2 * batch * length * heads * size * pools[0].element_size()
            for name, backend in usable.items():
                took = _time_decode(backend, q, pools, lengths)
                case = {"kind": "decode", "batch": batch, "tokens": length, "head_size": size}
                rows.append(
                    {
                        **case,
                        "backend": name,
                        "kv": "fp8" if kv else str(dtype).removeprefix("torch."),
                        "us": took * 1e6,
                        "TB/s": read / took / 1e12,
                        "of_copy_%": 100 * read / took / machine.copy_bytes_per_second,
                    }
                )
            pools.clear()
    return rows


def _time_decode(
    backend: PagedAttention[object], q: torch.Tensor, pools: list[torch.Tensor], batch: PagedBatch
) -> float:
    metadata = backend.plan(batch)
    return seconds_in_graph(
        lambda i: backend.run(q, pools[i][0], pools[i][1], metadata), len(pools)
    )


def _usable(spec: AttentionSpec) -> list[str]:
    """Names of the backends that can serve `spec` on this device."""
    capability = torch.cuda.get_device_capability()
    return [name for name in BACKENDS if refusal(name, spec, capability) is None]


def _paged_problem(
    spec: AttentionSpec, batch: int, length: int
) -> tuple[list[torch.Tensor], torch.Tensor, PagedBatch]:
    """Page pools to rotate through, queries [sequences, heads, head size], and the batch."""
    size, kv_dtype = spec.page_size or 1, spec.kv_dtype or spec.dtype
    pages = ceil_div(length, size)
    shape = (2, batch * pages, size, spec.num_kv_heads, spec.head_dim)
    bytes_each = int(np.prod(shape)) * kv_dtype.itemsize
    count = max(2, min(32, ROTATED // bytes_each))
    pools = [torch.randn(shape, device="cuda", dtype=spec.dtype).to(kv_dtype) for _ in range(count)]
    table = np.random.default_rng(0).permutation(batch * pages).reshape(batch, pages)
    q = torch.randn(batch, spec.num_heads, spec.head_dim, device="cuda", dtype=spec.dtype)
    lengths = np.ones(batch, np.int64), np.full(batch, length)
    return pools, q, PagedBatch.of(*lengths, table, spec.device)
