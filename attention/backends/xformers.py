"""xformers' memory-efficient attention (Lefaudeux et al. 2022; Rabe and Staats 2021): packed sequences; with a bias, padded ones."""

from dataclasses import dataclass

import numpy as np
import torch
from xformers.ops import fmha
from xformers.ops.fmha.attn_bias import BlockDiagonalMask

from antiphon.attention.interface import AttentionBackend, FullBatch, PagedBatch
from antiphon.layers.positions import RelativeBias

ALIGNMENT = 8  # of a bias row, in elements


@dataclass
class XformersPlan:
    """`rows` [sequences, longest] picks packed tokens (padding repeats row 0); `valid` the same shape, bool."""

    mask: BlockDiagonalMask
    rows: torch.Tensor
    valid: torch.Tensor
    bias: torch.Tensor | None = None  # made by the first layer, read by the others


class Xformers(AttentionBackend):
    name = "xformers"

    def plan(self, batch: FullBatch | PagedBatch) -> XformersPlan:
        assert isinstance(batch, FullBatch)
        lengths = batch.lengths
        column = np.arange(-(-int(lengths.max()) // ALIGNMENT) * ALIGNMENT)[None]
        valid = column < lengths[:, None]
        rows = np.where(valid, (np.cumsum(lengths) - lengths)[:, None] + column, 0)
        mask = BlockDiagonalMask.from_seqlens(lengths.tolist(), device=self.spec.device)
        return XformersPlan(
            mask, *(torch.from_numpy(each).to(self.spec.device) for each in (rows, valid))
        )

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: XformersPlan,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if bias is None:
            packed = (each[None].contiguous() for each in (q, k, v))
            return fmha.memory_efficient_attention_forward(
                *packed, attn_bias=plan.mask, scale=self.spec.scale, op=fmha.cutlass.FwOp
            )[0]
        if plan.bias is None:
            at = torch.arange(plan.rows.shape[1], device=q.device)
            added = bias.materialise((at[None, :] - at[:, None])[None])
            plan.bias = added.masked_fill(~plan.valid[:, None, None, :], float("-inf")).to(q.dtype)
        padded = (each[plan.rows] for each in (q, k, v))  # [sequences, longest, heads, head_dim]
        found = fmha.memory_efficient_attention_forward(
            *padded, attn_bias=plan.bias, scale=self.spec.scale, op=fmha.cutlass.FwOp
        )
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        out[plan.rows[plan.valid]] = found[plan.valid]
        return out
