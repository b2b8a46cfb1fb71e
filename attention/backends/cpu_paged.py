"""Paged attention on CPUs that reads pages in place, compiled with Numba; float32 and bfloat16.

The reference backend gathers a sequence's pages before each product, which moves three
times the bytes that a decode step needs. Here one pass with a running softmax (Milakov
and Gimelshein 2018) reads every key and value once. All heads of a token are read
together, because they are stored side by side. It computes in float32.
"""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.attention.interface import AttentionSpec, PagedAttention, PagedBatch
from antiphon.kernels.cpu_paged_attention import attend
from antiphon.kernels.numba_cache import make_ready
from antiphon.layers.positions import RelativeBias

_NO_BIAS = np.zeros((0, 0), np.float32)


@dataclass
class CpuPagedMetadata:
    """One row per query: its sequence's pages, and how many keys it sees."""

    pages: np.ndarray  # [sequences, pages] int32
    sequence: np.ndarray  # [queries] int64
    visible: np.ndarray  # [queries] int64
    bias: np.ndarray | None = None  # [heads, distances], made by the first layer


class CpuPaged(PagedAttention[CpuPagedMetadata]):
    name = "cpu_paged"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        query = np.zeros((1, spec.num_heads, spec.head_dim), np.float32)
        keys = _numbers(torch.zeros(1, 1, spec.num_kv_heads, spec.head_dim, dtype=spec.dtype))
        row, one = np.zeros(1, np.int64), np.ones(1, np.int64)
        pages, scale = np.zeros((1, 1), np.int32), np.float32(1)
        make_ready(attend, query, keys, keys, pages, row, one, scale, _NO_BIAS, query.copy())

    def plan(self, batch: PagedBatch) -> CpuPagedMetadata:
        sequence = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        visible = batch.kv_lens.astype(np.int64)[sequence]
        if self.spec.kind == "causal":
            ends = np.repeat(np.cumsum(batch.query_lens), batch.query_lens)
            later_queries = ends - 1 - np.arange(len(sequence))  # of the same sequence
            visible = visible - later_queries
        return CpuPagedMetadata(np.ascontiguousarray(batch.page_table, np.int32), sequence, visible)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: CpuPagedMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if bias is not None and metadata.bias is None:
            distance = -torch.arange(int(metadata.visible.max()))[None, None]
            by_distance = bias.materialize(distance)[0, :, 0].float()
            metadata.bias = np.ascontiguousarray(by_distance.numpy())
        out = torch.empty(q.shape)
        attend(
            q.float().contiguous().numpy(),
            _numbers(k),
            _numbers(v),
            metadata.pages,
            metadata.sequence,
            metadata.visible,
            np.float32(self.spec.scale),
            _NO_BIAS if metadata.bias is None else metadata.bias,
            out.numpy(),
        )
        return out.to(q.dtype)


def _numbers(x: torch.Tensor) -> np.ndarray:
    """float32, or the bits of bfloat16 as uint16."""
    return x.numpy() if x.dtype is torch.float32 else x.view(torch.uint16).numpy()
