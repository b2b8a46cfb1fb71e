"""FlashAttention 2 (Dao 2023) through the package flash-attn: packed sequences, and pages of a multiple of 256 tokens."""

from dataclasses import dataclass

import torch
from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache

from antiphon.attention.interface import AttentionBackend, FullBatch, PagedBatch
from antiphon.layers.positions import RelativeBias


@dataclass(frozen=True)
class PagedPlan:
    """`kv_starts`: None where all sequences have equally many queries, which the kernel with split keys takes."""

    batch: PagedBatch
    kv_starts: torch.Tensor | None  # [sequences + 1] int32


class FlashAttention(AttentionBackend):
    name = "flash_attn"

    def plan(self, batch: FullBatch | PagedBatch) -> FullBatch | PagedPlan:
        if isinstance(batch, FullBatch):
            return batch
        if batch.num_tokens == len(batch.query_lens) * batch.max_query_len:
            return PagedPlan(batch, None)
        plan = PagedPlan(batch, torch.zeros_like(batch.query_starts_on_device))
        self.replan(plan, batch)
        return plan

    def replan(self, plan: FullBatch | PagedPlan, batch: FullBatch | PagedBatch) -> None:
        if isinstance(plan, PagedPlan) and plan.kv_starts is not None:
            torch.cumsum(plan.batch.kv_lens_on_device, 0, dtype=torch.int32, out=plan.kv_starts[1:])

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: FullBatch | PagedPlan,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        scale, causal = self.spec.scale, self.spec.kind == "causal"
        if isinstance(plan, FullBatch):
            lengths = (plan.starts, plan.starts, plan.max_len, plan.max_len)
            return flash_attn_varlen_func(q, k, v, *lengths, softmax_scale=scale)
        batch = plan.batch
        if plan.kv_starts is None:
            found = flash_attn_with_kvcache(
                q.unflatten(0, (-1, batch.max_query_len)),
                k,
                v,
                cache_seqlens=batch.kv_lens_on_device,
                block_table=batch.page_table_on_device,
                softmax_scale=scale,
                causal=causal,
            )
            return found.flatten(0, 1)
        return flash_attn_varlen_func(
            q,
            k,
            v,
            batch.query_starts_on_device,
            plan.kv_starts,
            batch.max_query_len,
            batch.max_kv_len,
            softmax_scale=scale,
            causal=causal,
            block_table=batch.page_table_on_device,
        )
