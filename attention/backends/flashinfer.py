"""FlashInfer (Ye et al. 2025): ragged attention for encoders, paged attention for decoders.

Head sizes of 64, 128 and 256 use FlashInfer's own kernels (in encoders FlashAttention 3
on Hopper, 2 elsewhere); an encoder's other sizes go through cuDNN, which takes any
multiple of 8.
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
    AttentionSpec,
    FullAttention,
    FullBatch,
    PagedAttention,
    PagedBatch,
    cumulative,
)
from antiphon.layers.positions import RelativeBias

WORKSPACE_BYTES = 128 << 20  # what FlashInfer recommends
# For each multiprocessor and element of a group of heads, what split sequences are joined in: two
# blocks of 128 rows in float32 (0.6.4).
SPLIT_BYTES = 1024
OWN_HEAD_DIMS = (64, 128, 256)


def _workspace(spec: AttentionSpec) -> torch.Tensor:
    """What FlashInfer recommends is too little for groups of more than a few heads."""
    processors = torch.cuda.get_device_properties(spec.device).multi_processor_count
    group = spec.num_heads // spec.num_kv_heads
    joined = group * spec.head_dim * processors * SPLIT_BYTES
    size = max(WORKSPACE_BYTES, joined + WORKSPACE_BYTES // 2)
    return torch.empty(size, dtype=torch.uint8, device=spec.device)


def _types(spec: AttentionSpec) -> dict[str, torch.dtype]:
    return {"q_data_type": spec.dtype, "kv_data_type": spec.kv_dtype or spec.dtype}


@dataclass(frozen=True)
class CudnnMetadata:
    """As cuDNN wants them: int32 lengths and cu_seqlens [sequences (+ 1), 1, 1, 1]."""

    max_len: int
    lengths: torch.Tensor
    cu_seqlens: torch.Tensor
    _offsets: dict[int, torch.Tensor] = field(default_factory=dict)

    def offsets(self, packed: torch.Tensor) -> torch.Tensor:
        """Where sequences begin, in elements of `packed`. The first layer makes them."""
        stride = packed.stride(0)
        if stride not in self._offsets:
            self._offsets[stride] = self.cu_seqlens * stride
        return self._offsets[stride]


@dataclass(frozen=True)
class RaggedMetadata:
    wrapper: Any


class FlashInferFull(FullAttention[CudnnMetadata | RaggedMetadata]):
    name = "flashinfer"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._workspace = _workspace(spec)
        hopper = torch.cuda.get_device_capability(spec.device) == (9, 0)
        self._kernels = "fa3" if hopper else "fa2"

    def plan(self, batch: FullBatch) -> CudnnMetadata | RaggedMetadata:
        spec = self.spec
        if spec.head_dim not in OWN_HEAD_DIMS:
            lengths = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).view(-1, 1, 1, 1)
            return CudnnMetadata(batch.max_len, lengths, batch.cu_seqlens.view(-1, 1, 1, 1))
        wrapper = BatchPrefillWithRaggedKVCacheWrapper(
            self._workspace, "NHD", backend=self._kernels
        )
        cu_seqlens = cumulative(batch.lengths)
        shape = (spec.num_heads, spec.num_kv_heads, spec.head_dim)
        wrapper.plan(cu_seqlens, cu_seqlens, *shape, sm_scale=spec.scale, **_types(spec))
        return RaggedMetadata(wrapper)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: CudnnMetadata | RaggedMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if isinstance(metadata, RaggedMetadata):
            return metadata.wrapper.run(q, k, v)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        cudnn_batch_prefill_with_kv_cache(
            q,
            k,
            v,
            self.spec.scale,
            self._workspace,
            max_token_per_sequence=metadata.max_len,
            max_sequence_kv=metadata.max_len,
            actual_seq_lens_q=metadata.lengths,
            actual_seq_lens_kv=metadata.lengths,
            causal=False,
            return_lse=False,
            batch_offsets_q=metadata.offsets(q),
            batch_offsets_o=metadata.offsets(out),
            batch_offsets_k=metadata.offsets(k),
            batch_offsets_v=metadata.offsets(v),
            out=out,
            is_cuda_graph_compatible=True,
        )
        return out


@dataclass(frozen=True)
class PagedMetadata:
    wrapper: Any
    decode: bool  # one query for each sequence
    # Recorded when the wrapper's last plan has been copied to the device.
    copied: torch.cuda.Event = field(default_factory=torch.cuda.Event)


class FlashInferPaged(PagedAttention[PagedMetadata]):
    name = "flashinfer"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._workspace = _workspace(spec)

    def plan(self, batch: PagedBatch) -> PagedMetadata:
        decode = batch.num_tokens == len(batch.query_lens)
        make = self._decode_wrapper if decode else self._prefill_wrapper
        metadata = PagedMetadata(make(batch), decode)
        self.replan(metadata, batch)
        return metadata

    def _buffer(self, size: int) -> torch.Tensor:
        """Wrappers own the tensors that graphs read, so each one has buffers of its own."""
        return torch.zeros(size, dtype=torch.int32, device=self.spec.device)

    def _decode_wrapper(self, batch: PagedBatch) -> Any:
        sequences, pages = batch.page_table_on_device.shape
        return BatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            # Without tensor cores a few sizes of groups have kernels.
            use_tensor_cores=self.spec.num_kv_heads < self.spec.num_heads,
            paged_kv_indptr_buffer=self._buffer(sequences + 1),
            paged_kv_indices_buffer=self._buffer(sequences * pages),
            paged_kv_last_page_len_buffer=self._buffer(sequences),
        )

    def _prefill_wrapper(self, batch: PagedBatch) -> Any:
        sequences, pages = batch.page_table_on_device.shape
        return BatchPrefillWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            qo_indptr_buf=self._buffer(sequences + 1),
            paged_kv_indptr_buf=self._buffer(sequences + 1),
            paged_kv_indices_buf=self._buffer(sequences * pages),
            paged_kv_last_page_len_buf=self._buffer(sequences),
            backend="fa2",
        )

    def replan(self, metadata: PagedMetadata, batch: PagedBatch) -> None:
        spec, size = self.spec, self.spec.page_size
        assert size is not None
        counts = -(-batch.kv_lens // size)
        page_table = batch.page_table
        used = np.arange(page_table.shape[1])[None] < counts[:, None]
        indices = torch.from_numpy(np.ascontiguousarray(page_table[used], np.int32))
        last = torch.from_numpy((batch.kv_lens - (counts - 1) * size).astype(np.int32))
        pages = (cumulative(counts), indices, last)
        # A wrapper writes its plan into one pinned buffer, queues its copy to the device behind the
        # steps in flight, and does not wait: that copy must have ended before the next plan
        # overwrites the buffer.
        metadata.copied.synchronize()
        shape = (spec.num_heads, spec.num_kv_heads, spec.head_dim, size)
        options = {"sm_scale": spec.scale, **_types(spec)}
        if metadata.decode:
            metadata.wrapper.plan(*pages, *shape, **options)
        else:
            cu_seqlens_q, causal = cumulative(batch.query_lens), spec.kind == "causal"
            metadata.wrapper.plan(cu_seqlens_q, *pages, *shape, causal=causal, **options)
        metadata.copied.record()

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: PagedMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        return metadata.wrapper.run(q.contiguous(), (k, v))
