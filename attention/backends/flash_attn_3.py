"""FlashAttention 3 (Shah et al. 2024) for Hopper, from flash_attn_interface; any page size.

PyPI's fa3-fwd has the same functions in fa3_fwd_interface, built without float16 and without pages.
"""

from importlib.util import find_spec
from typing import Any

import torch

from antiphon.attention.interface import FullAttention, FullBatch, PagedAttention, PagedBatch
from antiphon.kernels.formats import FLOAT8, FLOAT8_MAX
from antiphon.layers.positions import RelativeBias

if find_spec("flash_attn_interface") is not None:
    from flash_attn_interface import flash_attn_varlen_func, flash_attn_with_kvcache
else:
    from fa3_fwd_interface import flash_attn_varlen_func, flash_attn_with_kvcache


class FlashAttention3Full(FullAttention[FullBatch]):
    name = "flash_attn_3"

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
        out: torch.Tensor = flash_attn_varlen_func(
            q,
            k,
            v,
            metadata.cu_seqlens,
            metadata.cu_seqlens,
            metadata.max_len,
            metadata.max_len,
            softmax_scale=self.spec.scale,
        )
        return out


class FlashAttention3Paged(PagedAttention[PagedBatch]):
    """Over float8 pages its queries are float8 too, all of a step with one scale.

    It has no product of float8 and half precision.
    """

    name = "flash_attn_3"

    def plan(self, batch: PagedBatch) -> PagedBatch:
        return batch

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: PagedBatch,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        options: dict[str, Any] = {
            "cache_seqlens": metadata.kv_lens_on_device,
            "page_table": metadata.page_table_on_device,
            "softmax_scale": self.spec.scale,
            "causal": self.spec.kind == "causal",
        }
        if k.dtype == FLOAT8:
            scale = (q.abs().amax().float() / FLOAT8_MAX).clamp(min=1e-12)
            q = (q / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8)
            options["q_descale"] = scale.expand(len(metadata.query_lens), self.spec.num_kv_heads)
        out: torch.Tensor
        if metadata.single_queries:
            out = flash_attn_with_kvcache(q.unsqueeze(1), k, v, **options).squeeze(1)
        else:
            options["cu_seqlens_q"] = metadata.cu_seqlens_q
            options["max_seqlen_q"] = metadata.max_query_len
            out = flash_attn_with_kvcache(q, k, v, **options)
        return out.to(self.spec.dtype)
