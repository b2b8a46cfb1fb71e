"""FlashAttention 4, from flash-attn-4: kernels in CuTe's language, which are compiled at first use.

For Hopper and newer. Nobody has run it here on a GPU yet.
"""

import torch
from flash_attn.cute import flash_attn_varlen_func

from antiphon.attention.interface import FullAttention, FullBatch
from antiphon.layers.positions import RelativeBias


class FlashAttention4Full(FullAttention[FullBatch]):
    name = "flash_attn_4"

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
        out: torch.Tensor
        out, _ = flash_attn_varlen_func(  # and the logarithms of the sums, where asked for
            q,
            k,
            v,
            cu_seqlens_q=metadata.cu_seqlens,
            cu_seqlens_k=metadata.cu_seqlens,
            max_seqlen_q=metadata.max_len,
            max_seqlen_k=metadata.max_len,
            softmax_scale=self.spec.scale,
        )
        return out
