"""Paged attention on CPUs that reads pages where they lie, compiled with Numba; float32.

The reference backend gathers a sequence's pages before each product, which moves three times the bytes a decode step needs.
Here one pass with a running softmax (Milakov and Gimelshein 2018) reads every key and value once. All heads of a token are
read together, because they lie together.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch

from antiphon.attention.interface import AttentionBackend, AttentionSpec, FullBatch, PagedBatch
from antiphon.layers.compiled import compiled, make_ready
from antiphon.layers.positions import RelativeBias

_NO_BIAS = np.zeros((0, 0), np.float32)


@dataclass
class CpuPagedPlan:
    """One row per query: its sequence's pages, and how many keys it sees."""

    pages: np.ndarray  # [sequences, pages] int32
    sequence: np.ndarray  # [queries] int64
    visible: np.ndarray  # [queries] int64
    bias: np.ndarray | None = None  # [heads, distances], materialised by the first layer


class CpuPaged(AttentionBackend):
    name = "cpu_paged"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        query = np.zeros((1, spec.num_heads, spec.head_dim), np.float32)
        keys, row, one = query[:, None], np.zeros(1, np.int64), np.ones(1, np.int64)
        make_ready(_attend, query, keys, keys, np.zeros((1, 1), np.int32), row, one, np.float32(1), _NO_BIAS, query.copy())

    def plan(self, batch: FullBatch | PagedBatch) -> CpuPagedPlan:
        assert isinstance(batch, PagedBatch)
        sequence = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        visible = batch.kv_lens.astype(np.int64)[sequence]
        if self.spec.kind == "causal":
            after = np.repeat(np.cumsum(batch.query_lens), batch.query_lens) - 1 - np.arange(len(sequence))
            visible = visible - after  # queries that come later in the same sequence
        return CpuPagedPlan(np.ascontiguousarray(batch.page_table, np.int32), sequence, visible)

    def run(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: CpuPagedPlan, bias: RelativeBias | None = None
    ) -> torch.Tensor:
        if bias is not None and plan.bias is None:
            distance = -torch.arange(int(plan.visible.max()))[None, None]
            plan.bias = np.ascontiguousarray(bias.materialise(distance)[0, :, 0].numpy())
        out = torch.empty(q.shape)
        _attend(
            q.contiguous().numpy(),
            k.numpy(),
            v.numpy(),
            plan.pages,
            plan.sequence,
            plan.visible,
            np.float32(self.spec.scale),
            _NO_BIAS if plan.bias is None else plan.bias,
            out.numpy(),
        )
        return out


@compiled(parallel=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, nogil=True)
def _attend(q, keys, values, pages, sequence, visible, scale, bias, out):  # type: ignore[no-untyped-def]
    """q, out [queries, heads, head_dim]; keys, values [pages, page_size, heads, head_dim]; bias [heads, distances] or empty."""
    num_queries, heads, size = q.shape
    page_size = keys.shape[1]
    for row in numba.prange(num_queries):
        length = visible[row]
        highest = np.full(heads, np.float32(-3.0e38), np.float32)
        total = np.zeros(heads, np.float32)
        sums = np.zeros((heads, size), np.float32)
        scores = np.empty((heads, page_size), np.float32)
        for at in range((length + page_size - 1) // page_size):
            page = pages[sequence[row], at]
            filled = min(page_size, length - at * page_size)
            for token in range(filled):
                for head in range(heads):
                    product = np.float32(0)
                    for i in range(size):
                        product += q[row, head, i] * keys[page, token, head, i]
                    scores[head, token] = product * scale
            if bias.shape[0]:
                for head in range(heads):
                    for token in range(filled):
                        scores[head, token] += bias[head, length - 1 - at * page_size - token]
            for head in range(heads):
                top = highest[head]
                for token in range(filled):
                    top = max(top, scores[head, token])
                shrink = np.exp(highest[head] - top)
                highest[head] = top
                total[head] *= shrink
                for i in range(size):
                    sums[head, i] *= shrink
                for token in range(filled):
                    weight = np.exp(scores[head, token] - top)
                    scores[head, token] = weight
                    total[head] += weight
            for token in range(filled):
                for head in range(heads):
                    weight = scores[head, token]
                    for i in range(size):
                        sums[head, i] += weight * values[page, token, head, i]
        for head in range(heads):
            for i in range(size):
                out[row, head, i] = sums[head, i] / total[head]
