"""FlashAttention 3 (Shah et al. 2024) for Hopper, by its package flash_attn_interface: packed sequences, and pages of any size."""

from typing import Any

import torch
from flash_attn_interface import flash_attn_varlen_func, flash_attn_with_kvcache

from antiphon.attention.interface import AttentionBackend, FullBatch, PagedBatch
from antiphon.kernels.formats import FLOAT8, FLOAT8_MAX
from antiphon.layers.positions import RelativeBias


class FlashAttention3(AttentionBackend):
    """With float8 pages its queries are float8 too, a step's with one scale: it has no product of float8 and half precision."""

    name = "flash_attn_3"

    def plan(self, batch: FullBatch | PagedBatch) -> FullBatch | PagedBatch:
        return batch

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: FullBatch | PagedBatch,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        found: torch.Tensor
        if isinstance(plan, FullBatch):
            lengths = (plan.starts, plan.starts, plan.max_len, plan.max_len)
            found = flash_attn_varlen_func(q, k, v, *lengths, softmax_scale=self.spec.scale)
            return found
        options: dict[str, Any] = {
            "cache_seqlens": plan.kv_lens_on_device,
            "page_table": plan.page_table_on_device,
            "softmax_scale": self.spec.scale,
            "causal": self.spec.kind == "causal",
        }
        if k.dtype == FLOAT8:
            scale = (q.abs().amax().float() / FLOAT8_MAX).clamp(min=1e-12)
            q = (q / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8)
            options["q_descale"] = scale.expand(len(plan.query_lens), self.spec.num_heads)
        if plan.num_tokens == len(plan.query_lens) * plan.max_query_len:
            found = flash_attn_with_kvcache(
                q.unflatten(0, (-1, plan.max_query_len)), k, v, **options
            ).flatten(0, 1)
        else:
            starts = {
                "cu_seqlens_q": plan.query_starts_on_device,
                "max_seqlen_q": plan.max_query_len,
            }
            found = flash_attn_with_kvcache(q, k, v, **options, **starts)
        return found.to(self.spec.dtype)
