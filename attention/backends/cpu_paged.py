"""Paged attention on CPUs that reads pages where they lie, compiled with Numba; float32.

The reference backend gathers a sequence's pages before each product, which moves three times the bytes a decode step needs.
Here one pass with a running softmax (Milakov and Gimelshein 2018) reads every key and value once. All heads of a token are
read together, because they lie together.
"""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.attention.interface import AttentionBackend, AttentionSpec, FullBatch, PagedBatch
from antiphon.kernels.cpu_paged_attention import attend
from antiphon.kernels.numba_cache import make_ready
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
        make_ready(
            attend,
            query,
            keys,
            keys,
            np.zeros((1, 1), np.int32),
            row,
            one,
            np.float32(1),
            _NO_BIAS,
            query.copy(),
        )

    def plan(self, batch: FullBatch | PagedBatch) -> CpuPagedPlan:
        assert isinstance(batch, PagedBatch)
        sequence = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        visible = batch.kv_lens.astype(np.int64)[sequence]
        if self.spec.kind == "causal":
            after = (
                np.repeat(np.cumsum(batch.query_lens), batch.query_lens)
                - 1
                - np.arange(len(sequence))
            )
            visible = visible - after  # queries that come later in the same sequence
        return CpuPagedPlan(np.ascontiguousarray(batch.page_table, np.int32), sequence, visible)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: CpuPagedPlan,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if bias is not None and plan.bias is None:
            distance = -torch.arange(int(plan.visible.max()))[None, None]
            plan.bias = np.ascontiguousarray(bias.materialise(distance)[0, :, 0].numpy())
        out = torch.empty(q.shape)
        attend(
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
