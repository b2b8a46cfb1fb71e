"""Attention problems with their answers.

Lengths are ragged, pages out of order, and whatever no query may see is poisoned.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from antiphon.attention.interface import (
    AttentionSpec,
    FullAttention,
    FullBatch,
    Kind,
    PagedAttention,
    PagedBatch,
)
from antiphon.layers.positions import RelativeBias

TOLERANCE = {
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
    torch.float8_e4m3fn: 0.2,
}
FULL_LENGTHS = [[7], [5, 5, 5], [1, 13, 4, 30]]
PAGED_LENGTHS = [
    ([1], [9]),
    ([1, 1, 1], [4, 17, 1]),
    ([1, 1, 5, 3], [16, 2, 5, 21]),
    ([6, 2], [6, 30]),
]
# In keys that no query may see; finite, so that a masked product stays finite in the reference.
POISON = 1e4


def make_bias(
    heads: int, bidirectional: bool, device: Any = "cpu", dtype: torch.dtype = torch.float32
) -> RelativeBias:
    bias = RelativeBias(heads, 8, 20, bidirectional)
    bias.weight.data.normal_(std=1.0)
    return bias.to(device, dtype)


def plain_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    bias: RelativeBias | None,
    first_query: int,
    causal: bool,
) -> torch.Tensor:
    """One sequence in float64: q [queries, heads, size], k and v [keys, kv_heads, size]."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * scale
    distance = (
        torch.arange(k.shape[0], device=q.device)[None]
        - (torch.arange(q.shape[0], device=q.device) + first_query)[:, None]
    )
    if bias is not None:
        scores = scores + bias.materialize(distance[None])[0].double()
    if causal:
        scores = scores.masked_fill(distance > 0, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.double())


def full_spec(
    heads: int,
    size: int,
    dtype: torch.dtype,
    bias: bool = False,
    device: Any = "cpu",
    kv_heads: int | None = None,
    kv: Any = None,
) -> AttentionSpec:
    sizes = (heads, kv_heads or heads, size, size**-0.5, dtype)
    return AttentionSpec("full", *sizes, torch.device(device), bias, kv_dtype=kv)


def paged_spec(
    kind: Kind,
    heads: int,
    size: int,
    dtype: torch.dtype,
    bias: bool = False,
    page_size: int = 4,
    device: Any = "cpu",
    kv: Any = None,
    kv_heads: int | None = None,
) -> AttentionSpec:
    heads_of = (heads, kv_heads or heads, size)
    return AttentionSpec(
        kind, *heads_of, size**-0.5, dtype, torch.device(device), bias, page_size, kv
    )


def check_full(backend: FullAttention[object], lengths: list[int], seed: int = 0) -> None:
    """q, k and v are views of one stacked tensor, as the models make them."""
    spec = backend.spec
    torch.manual_seed(seed)
    heads = [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]
    stacked = torch.randn(sum(lengths), sum(heads), spec.head_dim, device=spec.device)
    q, k, v = stacked.to(spec.dtype).split(heads, dim=1)
    bias = make_bias(spec.num_heads, True, spec.device, spec.dtype) if spec.bias else None
    metadata = backend.plan(FullBatch.of(np.array(lengths), spec.device))
    poison_free_memory(q)
    out = backend.run(q, k, v, metadata, bias)
    start = 0
    for length in lengths:
        rows = slice(start, start := start + length)
        close(
            out[rows],
            plain_attention(q[rows], k[rows], v[rows], spec.scale, bias, 0, False),
            spec.kv_dtype or spec.dtype,
        )


@dataclass
class PagedCase:
    q: torch.Tensor
    pool: torch.Tensor  # [2, pages, page_size, kv_heads, size]
    batch: PagedBatch
    bias: RelativeBias | None
    sequences: list[torch.Tensor]  # [2, length, kv_heads, size] of each

    @classmethod
    def make(
        cls,
        spec: AttentionSpec,
        query_lens: list[int],
        kv_lens: list[int],
        seed: int = 1,
        poison: float = POISON,
    ) -> "PagedCase":
        torch.manual_seed(seed)
        size, kv_dtype = spec.page_size or 1, spec.kv_dtype or spec.dtype
        counts = [-(-length // size) for length in kv_lens]
        order = np.random.default_rng(seed).permutation(sum(counts) + 5)
        table = np.zeros((len(kv_lens), max(counts)), np.int32)
        limit = 400.0 if kv_dtype == torch.float8_e4m3fn else poison
        pool = torch.full(
            (2, len(order), size, spec.num_kv_heads, spec.head_dim), limit, device=spec.device
        ).to(kv_dtype)
        sequences, first_page = [], 0
        for row, (length, count) in enumerate(zip(kv_lens, counts, strict=True)):
            table[row, :count] = order[first_page : first_page + count]
            first_page += count
            kv = torch.randn(2, length, spec.num_kv_heads, spec.head_dim, device=spec.device)
            kv = kv.to(kv_dtype)
            if spec.kind == "latent":
                kv[1] = kv[0]
            sequences.append(kv)
            places = torch.from_numpy(
                table[row, np.arange(length) // size].astype(np.int64) * size
                + np.arange(length) % size
            )
            raw = pool.flatten(1, 2).view(torch.uint8)  # indexing by bytes works for every dtype
            raw[:, places.to(spec.device)] = kv.view(torch.uint8)
        q = torch.randn(sum(query_lens), spec.num_heads, spec.head_dim, device=spec.device).to(
            spec.dtype
        )
        bias = make_bias(spec.num_heads, False, spec.device, spec.dtype) if spec.bias else None
        return cls(
            q,
            pool,
            PagedBatch.of(np.array(query_lens), np.array(kv_lens), table, spec.device),
            bias,
            sequences,
        )

    def check(
        self, out: torch.Tensor, spec: AttentionSpec, rounded: torch.dtype | None = None
    ) -> None:
        """`rounded`: to what queries and weights are, if it is coarser than the spec's dtype."""
        start = 0
        for queries, length, (k, v) in zip(
            self.batch.query_lens, self.batch.kv_lens, self.sequences, strict=True
        ):
            rows = slice(start, start := start + int(queries))
            first = int(length - queries)
            expected = plain_attention(
                self.q[rows],
                k.float(),
                v.float(),
                spec.scale,
                self.bias,
                first,
                spec.kind == "causal",
            )
            close(out[rows], expected, rounded or spec.dtype)


def check_paged(
    backend: PagedAttention[object], query_lens: list[int], kv_lens: list[int], seed: int = 1
) -> None:
    case = PagedCase.make(backend.spec, query_lens, kv_lens, seed)
    metadata = backend.plan(case.batch)
    rounded = backend.spec.kv_dtype if backend.name == "flash_attn_3" else None
    for _ in range(2):  # the second layer of a step finds everything as the first one did
        poison_free_memory(case.q)
        k, v = case.pool
        pages = (k, k) if backend.spec.kind == "latent" else (k, v)
        case.check(backend.run(case.q, *pages, metadata, case.bias), backend.spec, rounded)


def poison_free_memory(like: torch.Tensor) -> None:
    """Makes the next output of this size start as NaN: the allocator reuses the freed block."""
    torch.full(like.shape, float("nan"), dtype=like.dtype, device=like.device)


def close(out: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
