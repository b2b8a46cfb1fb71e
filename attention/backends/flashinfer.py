"""FlashInfer (Ye et al. 2025): ragged attention for encoders, paged attention for decoders.

Head sizes of 64, 128 and 256 use FlashInfer's own kernels (FlashAttention 3 on Hopper, 2 elsewhere); an encoder's other sizes
go through cuDNN, which takes any multiple of 8.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flashinfer import (
    BatchDecodeWithPagedKVCacheWrapper,
    BatchPrefillWithPagedKVCacheWrapper,
    BatchPrefillWithRaggedKVCacheWrapper,
)
from flashinfer.cudnn import cudnn_batch_prefill_with_kv_cache

from antiphon.attention.interface import (
    AttentionBackend,
    AttentionSpec,
    FullBatch,
    PagedBatch,
    starts_of,
)
from antiphon.layers.positions import RelativeBias

WORKSPACE_BYTES = 128 << 20  # what FlashInfer recommends
OWN_HEAD_DIMS = (64, 128, 256)


@dataclass(frozen=True)
class CudnnPlan:
    """Lengths as cuDNN wants them, [sequences, 1, 1, 1] int32, and starts [sequences + 1, 1, 1, 1]."""

    max_len: int
    lengths: torch.Tensor
    starts: torch.Tensor
    _offsets: dict[int, torch.Tensor] = field(default_factory=dict)

    def offsets(self, packed: torch.Tensor) -> torch.Tensor:
        """Starts in elements of `packed`; made by the first layer, read by the others."""
        stride = packed.stride(0)
        if stride not in self._offsets:
            self._offsets[stride] = self.starts * stride
        return self._offsets[stride]


@dataclass(frozen=True)
class RaggedPlan:
    wrapper: Any


@dataclass(frozen=True)
class PagedPlan:
    wrapper: Any
    decode: bool  # one query each
    copied: torch.cuda.Event = field(
        default_factory=torch.cuda.Event
    )  # the wrapper's last plan, to the device


class FlashInfer(AttentionBackend):
    name = "flashinfer"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=spec.device)
        hopper = torch.cuda.get_device_capability(spec.device) == (9, 0)
        self._kernels = "fa3" if hopper and spec.kind == "full" else "fa2"
        self._types = {"q_data_type": spec.dtype, "kv_data_type": spec.kv_dtype or spec.dtype}

    def plan(self, batch: FullBatch | PagedBatch) -> CudnnPlan | RaggedPlan | PagedPlan:
        if isinstance(batch, PagedBatch):
            decode = batch.num_tokens == len(batch.query_lens)
            plan = PagedPlan(self._paged_wrapper(batch, decode), decode)
            self.replan(plan, batch)
            return plan
        if self.spec.head_dim not in OWN_HEAD_DIMS:
            lengths = (batch.starts[1:] - batch.starts[:-1]).view(-1, 1, 1, 1)
            return CudnnPlan(batch.max_len, lengths, batch.starts.view(-1, 1, 1, 1))
        wrapper = BatchPrefillWithRaggedKVCacheWrapper(
            self._workspace, "NHD", backend=self._kernels
        )
        starts = starts_of(batch.lengths)
        shape = (self.spec.num_heads, self.spec.num_heads, self.spec.head_dim)
        wrapper.plan(starts, starts, *shape, sm_scale=self.spec.scale, **self._types)
        return RaggedPlan(wrapper)

    def _paged_wrapper(self, batch: PagedBatch, decode: bool) -> Any:
        """Wrappers own tensors that graphs read, so each plan has its own."""
        sequences, pages = batch.page_table.shape
        device = self.spec.device

        def buffer(size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        if decode:
            return BatchDecodeWithPagedKVCacheWrapper(
                self._workspace,
                "NHD",
                use_cuda_graph=True,
                paged_kv_indptr_buffer=buffer(sequences + 1),
                paged_kv_indices_buffer=buffer(sequences * pages),
                paged_kv_last_page_len_buffer=buffer(sequences),
            )
        return BatchPrefillWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            qo_indptr_buf=buffer(sequences + 1),
            paged_kv_indptr_buf=buffer(sequences + 1),
            paged_kv_indices_buf=buffer(sequences * pages),
            paged_kv_last_page_len_buf=buffer(sequences),
            backend=self._kernels,
        )

    def replan(
        self, plan: CudnnPlan | RaggedPlan | PagedPlan, batch: FullBatch | PagedBatch
    ) -> None:
        if not (isinstance(plan, PagedPlan) and isinstance(batch, PagedBatch)):
            return
        spec, size = self.spec, self.spec.page_size
        assert size is not None
        counts = -(-batch.kv_lens // size)
        used = np.arange(batch.page_table.shape[1])[None] < counts[:, None]
        indices = torch.from_numpy(np.ascontiguousarray(batch.page_table[used], np.int32))
        last = torch.from_numpy((batch.kv_lens - (counts - 1) * size).astype(np.int32))
        pages = (starts_of(counts), indices, last)
        # A wrapper writes its plan into one pinned buffer, copies that to the device behind the steps
        # that are under way, and does not wait: the last plan must be there before it is overwritten.
        plan.copied.synchronize()
        shape = (spec.num_heads, spec.num_heads, spec.head_dim, size)
        if plan.decode:
            plan.wrapper.plan(*pages, *shape, sm_scale=spec.scale, **self._types)
        else:
            starts = starts_of(batch.query_lens)
            plan.wrapper.plan(
                starts,
                *pages,
                *shape,
                causal=spec.kind == "causal",
                sm_scale=spec.scale,
                **self._types,
            )
        plan.copied.record()

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: CudnnPlan | RaggedPlan | PagedPlan,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if isinstance(plan, PagedPlan):
            return plan.wrapper.run(q.contiguous(), (k, v))
        if isinstance(plan, RaggedPlan):
            return plan.wrapper.run(q, k, v)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        cudnn_batch_prefill_with_kv_cache(
            q,
            k,
            v,
            self.spec.scale,
            self._workspace,
            max_token_per_sequence=plan.max_len,
            max_sequence_kv=plan.max_len,
            actual_seq_lens_q=plan.lengths,
            actual_seq_lens_kv=plan.lengths,
            causal=False,
            return_lse=False,
            batch_offsets_q=plan.offsets(q),
            batch_offsets_o=plan.offsets(out),
            batch_offsets_k=plan.offsets(k),
            batch_offsets_v=plan.offsets(v),
            out=out,
            is_cuda_graph_compatible=True,
        )
        return out
