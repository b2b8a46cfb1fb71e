"""FlashAttention 2 (Dao 2023), from flash-attn; its pages are multiples of 256 tokens."""

from dataclasses import dataclass

import torch
from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache

from antiphon.attention.interface import FullAttention, FullBatch, PagedAttention, PagedBatch
from antiphon.layers.positions import RelativeBias


class FlashAttentionFull(FullAttention[FullBatch]):
    name = "flash_attn"

    def plan(self, batch: FullBatch) -> FullBatch:
        return batch

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: FullBatch,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        return flash_attn_varlen_func(
            q,
            k,
            v,
            metadata.cu_seqlens,
            metadata.cu_seqlens,
            metadata.max_len,
            metadata.max_len,
            softmax_scale=self.spec.scale,
        )


@dataclass(frozen=True)
class FlashPagedMetadata:
    """`cu_seqlens_k` is None where each sequence has one query: for these there is a kernel that
    splits the keys."""

    batch: PagedBatch
    cu_seqlens_k: torch.Tensor | None  # [sequences + 1] int32


class FlashAttentionPaged(PagedAttention[FlashPagedMetadata]):
    name = "flash_attn"

    def plan(self, batch: PagedBatch) -> FlashPagedMetadata:
        if batch.single_queries:
            return FlashPagedMetadata(batch, None)
        metadata = FlashPagedMetadata(batch, torch.zeros_like(batch.cu_seqlens_q))
        self.replan(metadata, batch)
        return metadata

    def replan(self, metadata: FlashPagedMetadata, batch: PagedBatch) -> None:
        if metadata.cu_seqlens_k is not None:
            lengths, ends = metadata.batch.kv_lens_on_device, metadata.cu_seqlens_k[1:]
            torch.cumsum(lengths, 0, dtype=torch.int32, out=ends)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: FlashPagedMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        scale, causal, batch = self.spec.scale, self.spec.kind == "causal", metadata.batch
        if metadata.cu_seqlens_k is None:
            out = flash_attn_with_kvcache(
                q.unsqueeze(1),
                k,
                v,
                cache_seqlens=batch.kv_lens_on_device,
                block_table=batch.page_table_on_device,
                softmax_scale=scale,
                causal=causal,
            )
            return out.squeeze(1)
        return flash_attn_varlen_func(
            q,
            k,
            v,
            batch.cu_seqlens_q,
            metadata.cu_seqlens_k,
            batch.max_query_len,
            batch.max_kv_len,
            softmax_scale=scale,
            causal=causal,
            block_table=batch.page_table_on_device,
        )
