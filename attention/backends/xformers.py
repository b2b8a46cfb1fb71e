"""xformers' memory-efficient attention (Lefaudeux et al. 2022; Rabe and Staats 2021).

Sequences stay packed; with a bias they are padded to the longest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from xformers.ops import fmha
from xformers.ops.fmha.attn_bias import BlockDiagonalMask

from antiphon.attention.interface import FullAttention, FullBatch
from antiphon.config.arithmetic import round_up
from antiphon.layers.positions import RelativeBias

ALIGNMENT = 8  # of a bias row, in elements


@dataclass
class XformersMetadata:
    """`rows` [sequences, longest] picks packed tokens (padding repeats row 0); `valid`
    [sequences, longest] bool is false where `rows` is padding."""

    mask: BlockDiagonalMask
    rows: torch.Tensor
    valid: torch.Tensor
    bias: torch.Tensor | None = None  # made by the first layer, read by the others


class XformersFull(FullAttention[XformersMetadata]):
    name = "xformers"

    def plan(self, batch: FullBatch) -> XformersMetadata:
        lengths, device = batch.lengths, self.spec.device
        column = np.arange(round_up(int(lengths.max()), ALIGNMENT))[None]
        valid = column < lengths[:, None]
        rows = np.where(valid, (np.cumsum(lengths) - lengths)[:, None] + column, 0)
        mask = BlockDiagonalMask.from_seqlens(lengths.tolist(), device=device)
        return XformersMetadata(
            mask, torch.from_numpy(rows).to(device), torch.from_numpy(valid).to(device)
        )

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: XformersMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if bias is None:
            q, k, v = (x[None].contiguous() for x in (q, k, v))
            return self._attend(q, k, v, metadata.mask)[0]
        if metadata.bias is None:
            metadata.bias = _additive(metadata, bias, q)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        q, k, v = (x[metadata.rows] for x in (q, k, v))  # [sequences, longest, heads, head_dim]
        attended = self._attend(q, k, v, metadata.bias)
        out[metadata.rows[metadata.valid]] = attended[metadata.valid]
        return out

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: BlockDiagonalMask | torch.Tensor,
    ) -> torch.Tensor:
        """[batch, tokens, heads, head_dim]"""
        return fmha.memory_efficient_attention_forward(
            q, k, v, attn_bias=bias, scale=self.spec.scale, op=fmha.cutlass.FwOp
        )


def _additive(metadata: XformersMetadata, bias: RelativeBias, q: torch.Tensor) -> torch.Tensor:
    """[sequences, heads, longest, longest] in the dtype of `q`: minus infinity at padded keys."""
    position = torch.arange(metadata.rows.shape[1], device=q.device)
    added = bias.materialize((position[None, :] - position[:, None])[None])
    return added.masked_fill(~metadata.valid[:, None, None, :], float("-inf")).to(q.dtype)
