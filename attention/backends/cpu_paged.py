"""Paged attention on CPUs that reads pages in place, compiled with Numba; float32 and bfloat16.

The reference backend gathers a sequence's pages before each product, which moves three
times the bytes that a decode step needs. Here one pass with a running softmax (Milakov
and Gimelshein 2018) reads every key and value once. All heads of a token are read
together, because they are stored side by side, and so are all queries that read the
same pages: beams of one input, tokens of one prompt. It computes in float32.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch

from antiphon.attention.interface import AttentionSpec, PagedAttention, PagedBatch
from antiphon.kernels.cpu_paged_attention import attend
from antiphon.kernels.numba_cache import make_ready
from antiphon.layers.positions import RelativeBias

_NO_BIAS = np.zeros((0, 0), np.float32)
MOST_TOGETHER = 8  # queries, whose sums stay in a core's nearest cache


@dataclass
class CpuPagedMetadata:
    """One row per query: its sequence's pages, and how many keys it sees."""

    pages: np.ndarray  # [sequences, pages] int32
    sequence: np.ndarray  # [queries] int64
    visible: np.ndarray  # [queries] int64
    groups: np.ndarray  # [groups + 1] int64, bounds of queries that read the same pages
    bias: np.ndarray | None = None  # [heads, distances], made by the first layer


class CpuPaged(PagedAttention[CpuPagedMetadata]):
    name = "cpu_paged"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        assert spec.page_size is not None
        self.page_size, self.threads = spec.page_size, numba.get_num_threads()
        query = np.zeros((1, spec.num_heads, spec.head_dim), np.float32)
        keys = _numbers(torch.zeros(1, 1, spec.num_kv_heads, spec.head_dim, dtype=spec.dtype))
        row, one, groups = np.zeros(1, np.int64), np.ones(1, np.int64), np.arange(2)
        pages, scale, out = np.zeros((1, 1), np.int32), np.float32(1), query.copy()
        make_ready(attend, query, keys, keys, pages, row, one, groups, scale, _NO_BIAS, out)

    def plan(self, batch: PagedBatch) -> CpuPagedMetadata:
        sequence = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        visible = batch.kv_lens.astype(np.int64)[sequence]
        if self.spec.kind == "causal":
            ends = np.repeat(np.cumsum(batch.query_lens), batch.query_lens)
            later_queries = ends - 1 - np.arange(len(sequence))  # of the same sequence
            visible = visible - later_queries
        pages = np.ascontiguousarray(batch.page_table, np.int32)
        used = -(-batch.kv_lens // self.page_size)
        groups = _groups(pages, used, sequence, self.threads)
        return CpuPagedMetadata(pages, sequence, visible, groups)

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
            metadata.groups,
            np.float32(self.spec.scale),
            _NO_BIAS if metadata.bias is None else metadata.bias,
            out.numpy(),
        )
        return out.to(q.dtype)


def _groups(pages: np.ndarray, used: np.ndarray, sequence: np.ndarray, threads: int) -> np.ndarray:
    """Bounds of the groups of queries, for `attend`: so many that each thread has one. `used`
    [sequences]: pages of each, behind which its row says nothing."""
    columns = np.arange(pages.shape[1]) < used[1:, None]
    differs = np.ones(len(used), bool)  # whether a sequence has other pages than that before it
    differs[1:] = (used[1:] != used[:-1]) | ((pages[1:] != pages[:-1]) & columns).any(1)
    count = len(sequence)
    begins = np.ones(count, bool)  # whether a query reads other pages than that before it
    begins[1:] = (sequence[1:] != sequence[:-1]) & differs[sequence[1:]]
    if begins.all():
        return np.arange(count + 1)
    place = np.arange(count) - begins.nonzero()[0][begins.cumsum() - 1]
    most = min(MOST_TOGETHER, -(-count // threads))
    return np.concatenate(((place % most == 0).nonzero()[0], [count]))


def _numbers(x: torch.Tensor) -> np.ndarray:
    """float32, or the bits of bfloat16 as uint16."""
    return x.numpy() if x.dtype is torch.float32 else x.view(torch.uint16).numpy()
